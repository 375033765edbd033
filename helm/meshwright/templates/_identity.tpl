{{- /* Which of the starts the values choose: anchor (made here), secret, issuer or external. Fails unless they choose
exactly one: a default that silently won would leave a mesh with another root than its admin believes. */ -}}
{{- define "meshwright.start" -}}
{{- $anchor := .Values.identity.anchor -}}
{{- $existing := .Values.identity.issuer.existing -}}
{{- $chosen := list -}}
{{- if $anchor.create }}{{ $chosen = append $chosen "identity.anchor.create" }}{{ end -}}
{{- if $anchor.existingSecret }}{{ $chosen = append $chosen "identity.anchor.existingSecret" }}{{ end -}}
{{- if or $existing.kind $existing.name }}{{ $chosen = append $chosen "identity.issuer.existing" }}{{ end -}}
{{- if .Values.identity.issuer.external }}{{ $chosen = append $chosen "identity.issuer.external" }}{{ end -}}
{{- if not $chosen -}}
{{- fail "\n\nNobody would issue identities. Set one of identity.anchor.create=true, identity.anchor.existingSecret, identity.issuer.existing.{kind,name}, identity.issuer.external=true." -}}
{{- end -}}
{{- if gt (len $chosen) 1 -}}
{{- $hint := ternary "Set identity.anchor.create=false for a trust anchor of your own." "Keep one of them." $anchor.create -}}
{{- fail (printf "\n\n%s exclude each other: each says who issues identities. %s" (join " and " $chosen) $hint) -}}
{{- end -}}
{{- if and (has "identity.issuer.existing" $chosen) (not (and $existing.kind $existing.name)) -}}
{{- fail "\n\nidentity.issuer.existing needs both: kind (Issuer or ClusterIssuer) and name." -}}
{{- end -}}
{{- get (dict "identity.anchor.create" "anchor" "identity.anchor.existingSecret" "secret" "identity.issuer.existing" "issuer" "identity.issuer.external" "external") (first $chosen) -}}
{{- end }}

{{- /* The seconds in a duration such as 48h. */ -}}
{{- define "meshwright.seconds" -}}
{{- mul (trimSuffix (substr (int (sub (len .) 1)) (len .) .) . | int64) (get (dict "s" 1 "m" 60 "h" 3600) (substr (int (sub (len .) 1)) (len .) .)) -}}
{{- end }}

{{- /* The arguments that tell the operator who issues, as a JSON object with the list "args". */ -}}
{{- define "meshwright.issuerArgs" -}}
{{- $identity := .Values.identity -}}
{{- $args := list -}}
{{- $start := include "meshwright.start" . -}}
{{- if eq $start "anchor" }}{{ $args = list "--issuer-kind=anchor-secret" "--issuer-name=meshwright-trust-anchor" }}
{{- else if eq $start "secret" }}{{ $args = list "--issuer-kind=anchor-secret" (printf "--issuer-name=%s" $identity.anchor.existingSecret) }}
{{- else if eq $start "issuer" }}{{ $args = list (printf "--issuer-kind=%s" $identity.issuer.existing.kind) (printf "--issuer-name=%s" $identity.issuer.existing.name) }}
{{- else }}{{ $args = list "--issuer-kind=none" }}
{{- end -}}
{{- if ne $start "external" -}}
{{- /* X.509 (RFC 5280, ub-common-name) allows 64, and cert-manager refuses more. */ -}}
{{- $name := printf "identity.%s.%s" .Release.Namespace $identity.trustDomain -}}
{{- if gt (len $name) 64 -}}
{{- fail (printf "\n\nThe issuer's common name %s has %d characters, and 64 are allowed: choose a shorter namespace or identity.trustDomain." $name (len $name)) -}}
{{- end -}}
{{- if lt (include "meshwright.seconds" $identity.issuer.duration | int64) 3600 -}}
{{- fail (printf "\n\nidentity.issuer.duration=%s is less than 1h, and cert-manager makes no certificate that lives shorter." $identity.issuer.duration) -}}
{{- end -}}
{{- if ge (include "meshwright.seconds" $identity.issuer.renewBefore | int64) (include "meshwright.seconds" $identity.issuer.duration | int64) -}}
{{- fail (printf "\n\nidentity.issuer.renewBefore=%s is not less than identity.issuer.duration=%s: the issuer would be renewed without end." $identity.issuer.renewBefore $identity.issuer.duration) -}}
{{- end -}}
{{- $args = concat $args (list (printf "--issuer-duration=%s" $identity.issuer.duration) (printf "--issuer-renew-before=%s" $identity.issuer.renewBefore)) -}}
{{- end -}}
{{- dict "args" $args | toJson -}}
{{- end }}

{{- /* The arguments that operator and delivery share, as a JSON object with the list "args". */ -}}
{{- define "meshwright.trustArgs" -}}
{{- $args := list (printf "--trust-domain=%s" .Values.identity.trustDomain) (printf "--issuer-secret=%s" .Values.identity.issuer.secretName) -}}
{{- if lt (include "meshwright.seconds" .Values.identity.leafLifetime | int64) 30 -}}
{{- fail (printf "\n\nidentity.leafLifetime=%s is less than 30s, and delivery would not start." .Values.identity.leafLifetime) -}}
{{- end -}}
{{- with .Values.identity.trustBundle }}{{ $args = append $args (printf "--trust-bundle=%s" .) }}{{ end -}}
{{- dict "args" $args | toJson -}}
{{- end }}

{{- /* The arguments that say who may call where no Server does, as a JSON object with the list "args". */ -}}
{{- define "meshwright.policyArgs" -}}
{{- $args := list (printf "--default-inbound-policy=%s" .Values.proxy.defaultInboundPolicy) -}}
{{- $args = append $args (printf "--cluster-networks=%s" .Values.clusterNetworks) -}}
{{- $args = append $args (printf "--probe-networks=%s" .Values.probeNetworks) -}}
{{- dict "args" (concat $args (include "meshwright.followArgs" . | fromJson).args) | toJson -}}
{{- end }}

{{- /* Of these, the one that operator and webhook share. */ -}}
{{- define "meshwright.followArgs" -}}
{{- dict "args" (ternary (list "--default-inbound-follows-namespace") list (.Values.proxy.defaultInboundPolicyFollowsNamespace | default false)) | toJson -}}
{{- end }}

{{- /* The name of the bundle's source if it is of the kind asked for (configmap, secret), else nothing; the argument is
a list of the root and the kind. */ -}}
{{- define "meshwright.bundleName" -}}
{{- $parts := splitList "/" (index . 0).Values.identity.trustBundle -}}
{{- if eq (first $parts) (index . 1) }}{{ index $parts 1 }}{{ end -}}
{{- end }}

{{- /* Who makes the webhook's certificate: cert-manager or operator. */ -}}
{{- define "meshwright.webhookCertificate" -}}
{{- $mode := .Values.webhook.certificate -}}
{{- $start := include "meshwright.start" . -}}
{{- if eq $mode "auto" }}{{ ternary "operator" "cert-manager" (eq $start "external") }}{{ else }}{{ $mode }}{{ end -}}
{{- end }}
