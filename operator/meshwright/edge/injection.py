"""One object in, the same object with its proxy out: what the webhook and `meshwright inject` both do."""

from collections.abc import Mapping

from meshwright.emit.inject import inject
from meshwright.model.desired import Json
from meshwright.model.injection import Injected, InjectionSettings, Mode, find_template, read_path
from meshwright.model.units import Namespace
from meshwright.parse.injection import parse_injection


def inject_object(
    manifest: Json,
    annotations: Mapping[str, str],
    settings: InjectionSettings,
    *,
    namespace: Namespace,
    asked: Mode | None = None,
) -> Injected:
    """Return what comes of giving an object's pods a proxy; ``annotations`` are the namespace's. Never raises."""
    template = read_path(manifest, find_template(manifest) or ())
    injection = parse_injection(template, annotations, settings.defaults, follows_namespace=settings.follows_namespace)
    return inject(manifest, injection, settings, namespace=namespace, asked=asked)
