{{- /* The operator's arguments that are about machines outside the cluster, as a JSON object with the list "args". */ -}}
{{- define "meshwright.registrarArgs" -}}
{{- $v := .Values.registrar -}}
{{- $args := list "--registrar" (printf "--registrar-port=%d" (int $v.port)) "--pod-ip=$(POD_IP)" "--node-name=$(NODE_NAME)" -}}
{{- with $v.deliveryAddress -}}
{{- $args = append $args (printf "--delivery-address=%s" .) -}}
{{- end -}}
{{- with $v.podCIDRs -}}
{{- $args = append $args (printf "--pod-cidr=%s" (join "," .)) -}}
{{- end -}}
{{- with $v.serviceCIDRs -}}
{{- $args = append $args (printf "--service-cidr=%s" (join "," .)) -}}
{{- end -}}
{{- dict "args" $args | toJson -}}
{{- end }}
