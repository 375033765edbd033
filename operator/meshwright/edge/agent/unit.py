"""The systemd unit of an agent.

Source: ``systemd.service(5)``, ``systemd.exec(5)``, ``systemd.kill(5)``; spiffe/spire ``doc/spire_agent.md``.
"""

from meshwright.edge.agent.settings import Places, Settings
from meshwright.model.group import JoinMode

UNIT = "meshwright-agent.service"
USER = "meshwright"
_SPARE_SECONDS = 20


def make_unit(settings: Settings, places: Places, program: str, user: str, spire_unit: str) -> str:
    """Return the unit's text. ``program``: the words that start meshwright; ``user``: who the agent and its Envoy are.

    The agent ends by itself, and ends its Envoy, so nothing else of the unit is to be killed: should the agent die,
    Envoy goes on serving, and the next agent takes it over.
    """
    after = f" {spire_unit}" if settings.mode is JoinMode.SPIFFE and spire_unit else ""
    folders = f"--settings {places.settings} --state-folder {places.state} --run-folder {places.run}"
    return f"""\
[Unit]
Description=meshwright agent: {settings.namespace}/{settings.group}
Documentation=man:systemd.service(5)
Wants=network-online.target{after}
After=network-online.target nss-lookup.target{after}
StartLimitIntervalSec=0

[Service]
Type=exec
User={user}
Group={user}
# As root, before each start: connections of this machine are turned to its proxy.
ExecStartPre=+{program} agent redirect {folders}
ExecStart={program} agent run {folders}
# 75: the rules must be others than they are. 1, 2: it cannot go on; `journalctl -u {UNIT}` says why.
Restart=always
RestartSec=5
KillMode=process
TimeoutStopSec={round(settings.drain_seconds) + _SPARE_SECONDS}
StateDirectory={_below(places.state, "/var/lib")}
StateDirectoryMode=0700
RuntimeDirectory={_below(places.run, "/run")}
RuntimeDirectoryPreserve=yes
UMask=0077
LimitNOFILE=1048576
Environment=PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=2
AmbientCapabilities=
CapabilityBoundingSet=
LockPersonality=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateTmp={"no" if _is_in_tmp(settings) else "yes"}
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectSystem=strict
ReadWritePaths={places.state} {places.run}
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""


def _is_in_tmp(settings: Settings) -> bool:
    """Whether the Workload API is where a private /tmp would hide it."""
    return settings.mode is JoinMode.SPIFFE and settings.spiffe_socket.removeprefix("unix:").lstrip("/").startswith(
        "tmp/"
    )


def _below(folder: object, parent: str) -> str:
    """Return a folder as systemd wants it, relative to where it keeps such folders."""
    return str(folder).removeprefix(f"{parent}/").strip("/")
