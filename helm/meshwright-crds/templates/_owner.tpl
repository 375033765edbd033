{{- /* Who else has brought the definition, by its name, that is on the cluster: a Helm release, or "another tool". Empty:
nobody. Given: the root and the name. */ -}}
{{- define "meshwright-crds.owner" -}}
{{- $root := index . 0 -}}
{{- $found := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" (index . 1) -}}
{{- if $found -}}
{{- $annotations := $found.metadata.annotations | default dict -}}
{{- $owner := printf "%s/%s" (index $annotations "meta.helm.sh/release-namespace" | default "") (index $annotations "meta.helm.sh/release-name" | default "") -}}
{{- if eq $owner "/" -}}
another tool
{{- else if ne $owner (printf "%s/%s" $root.Release.Namespace $root.Release.Name) -}}
release {{ $owner }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Which definitions are wanted: a list of their names, as JSON. */ -}}
{{- define "meshwright-crds.wanted" -}}
{{- $names := list -}}
{{- range $path, $_ := .Files.Glob "files/*.yaml" -}}
{{- $name := base $path | trimSuffix ".yaml" -}}
{{- $isGroup := or (hasSuffix ".workload.buoyant.io" $name) (hasSuffix ".meshwright.dev" $name) -}}
{{- if or (and $.Values.externalWorkload (hasSuffix ".workload.linkerd.io" $name)) (and $.Values.externalGroup $isGroup) (and $.Values.policy (hasSuffix ".policy.linkerd.io" $name)) -}}
{{- $names = append $names $name -}}
{{- end -}}
{{- end -}}
{{ toJson $names }}
{{- end }}
