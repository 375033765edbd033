{{- /* The labels that select a process's Pods; the argument is a list of the root and the process. */ -}}
{{- define "meshwright.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: meshwright
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* Every object's labels; the argument is a list of the root and the process it belongs to. */ -}}
{{- define "meshwright.labels" -}}
{{- $root := index . 0 -}}
{{- $own := include "meshwright.selector" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "meshwright" -}}
{{- $_ := set $own "app.kubernetes.io/version" $root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") -}}
{{- merge $own (deepCopy ($root.Values.commonLabels | default dict)) | toYaml -}}
{{- end }}

{{- define "meshwright.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- /* What the "restricted" Pod security standard asks of a Pod. */ -}}
{{- define "meshwright.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* What it asks of a container, and a root that cannot be written. */ -}}
{{- define "meshwright.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* A process's Deployment; the argument has root, process, settings, args and ports. Optional: volumes, mounts, and
annotations of its Pods, and env. */ -}}
{{- define "meshwright.deployment" -}}
{{- $root := .root -}}
{{- $names := list .root .process -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: meshwright-{{ .process }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "meshwright.labels" $names | nindent 4 }}
spec:
  {{- if not (kindIs "invalid" .settings.replicas) }}
  replicas: {{ .settings.replicas }}
  {{- end }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  selector:
    matchLabels:
      {{- include "meshwright.selector" $names | nindent 6 }}
  template:
    metadata:
      labels:
        {{- $labels := include "meshwright.labels" $names | fromYaml }}
        {{- merge $labels (deepCopy (.settings.podLabels | default dict)) | toYaml | nindent 8 }}
      annotations:
        {{- $own := merge (dict "kubectl.kubernetes.io/default-container" .process) (.annotations | default dict) }}
        {{- if and .root.Values.scrapeAnnotations (not (regexMatch "(^| )prometheus\\.io/" (keys (.settings.podAnnotations | default dict) | join " "))) }}
        {{- range .ports }}
        {{- if eq .name "metrics" }}
        {{- $own = merge $own (dict "prometheus.io/scrape" "true" "prometheus.io/port" (toString .containerPort) "prometheus.io/path" "/metrics") }}
        {{- end }}
        {{- end }}
        {{- end }}
        {{- merge $own (deepCopy (.settings.podAnnotations | default dict)) | toYaml | nindent 8 }}
    spec:
      serviceAccountName: meshwright-{{ .process }}
      automountServiceAccountToken: true
      enableServiceLinks: false
      terminationGracePeriodSeconds: 30
      securityContext:
        {{- include "meshwright.podSecurity" . | nindent 8 }}
      {{- with .root.Values.image.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . | quote }}
        {{- end }}
      {{- end }}
      {{- with .settings.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      containers:
        - name: {{ .process }}
          image: {{ include "meshwright.image" .root }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [meshwright, {{ .process }}]
          args:
            {{- range concat .args (.settings.extraArgs | default list) }}
            - {{ . | quote }}
            {{- end }}
          env:
            - name: POD_NAMESPACE
              valueFrom:
                fieldRef:
                  fieldPath: metadata.namespace
            {{- with .env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            {{- toYaml .ports | nindent 12 }}
          # Only until the process answers. A first sync that takes long must not start it over: readiness waits for that.
          startupProbe:
            httpGet: {path: /healthz, port: metrics}
            periodSeconds: 2
            failureThreshold: 60
          livenessProbe:
            httpGet: {path: /healthz, port: metrics}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            httpGet: {path: /readyz, port: metrics}
            periodSeconds: 5
            timeoutSeconds: 5
          resources:
            {{- toYaml .settings.resources | nindent 12 }}
          securityContext:
            {{- include "meshwright.containerSecurity" . | nindent 12 }}
          {{- with .mounts }}
          volumeMounts:
            {{- toYaml . | nindent 12 }}
          {{- end }}
      {{- with .volumes }}
      volumes:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
        - maxSkew: 1
          topologyKey: {{ . }}
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "meshwright.selector" $names | nindent 14 }}
        {{- end }}
      {{- with .settings.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .settings.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .settings.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end }}

{{- /* The ServiceAccount of a process; the argument is a list of the root and the process. */ -}}
{{- define "meshwright.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: meshwright-{{ index . 1 }}
  namespace: {{ (index . 0).Release.Namespace | quote }}
  labels:
    {{- include "meshwright.labels" . | nindent 4 }}
automountServiceAccountToken: false
{{- end }}

{{- /* What gives a process its ClusterRole; the argument is a list of the root and the process. */ -}}
{{- define "meshwright.clusterRoleBinding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: meshwright-{{ index . 1 }}
  labels:
    {{- include "meshwright.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: meshwright-{{ index . 1 }}
subjects:
  - kind: ServiceAccount
    name: meshwright-{{ index . 1 }}
    namespace: {{ (index . 0).Release.Namespace | quote }}
{{- end }}

{{- /* What gives a process its Role in the release's namespace; the argument is a list of the root and the process. */ -}}
{{- define "meshwright.roleBinding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: meshwright-{{ index . 1 }}
  namespace: {{ (index . 0).Release.Namespace | quote }}
  labels:
    {{- include "meshwright.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: meshwright-{{ index . 1 }}
subjects:
  - kind: ServiceAccount
    name: meshwright-{{ index . 1 }}
    namespace: {{ (index . 0).Release.Namespace | quote }}
{{- end }}
