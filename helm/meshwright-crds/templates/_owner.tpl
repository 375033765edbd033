{{- /* Who else has brought the definition that is on the cluster: a Helm release, or "another tool". Empty: nobody. */ -}}
{{- define "meshwright-crds.owner" -}}
{{- $found := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "externalworkloads.workload.linkerd.io" -}}
{{- if $found -}}
{{- $annotations := $found.metadata.annotations | default dict -}}
{{- $owner := printf "%s/%s" (index $annotations "meta.helm.sh/release-namespace" | default "") (index $annotations "meta.helm.sh/release-name" | default "") -}}
{{- if eq $owner "/" -}}
another tool
{{- else if ne $owner (printf "%s/%s" .Release.Namespace .Release.Name) -}}
release {{ $owner }}
{{- end -}}
{{- end -}}
{{- end }}
