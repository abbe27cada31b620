{{/* Labels of everything. */}}
{{- define "undermesh.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: undermesh
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: undermesh
{{- end }}

{{- define "undermesh.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* What both roles are told by environment. */}}
{{- define "undermesh.env" -}}
- name: UNDERMESH_KUBERNETES
  value: "true"
- name: UNDERMESH_METRICS_ADDRESS
  value: "[::]:15020"
- name: UNDERMESH_LOG
  value: {{ .Values.logLevel | quote }}
- name: UNDERMESH_LOG_FORMAT
  value: {{ .Values.logFormat | quote }}
- name: UNDERMESH_ACCESS_LOG
  value: {{ .Values.accessLog | default "off" | quote }}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- end }}

{{/* Start-up may wait for the API server's whole answer; after that an answer takes no time. */}}
{{- define "undermesh.probes" -}}
startupProbe:
  httpGet:
    path: /healthz/startup
    port: metrics
  periodSeconds: 1
  failureThreshold: 120
readinessProbe:
  httpGet:
    path: /healthz/ready
    port: metrics
  periodSeconds: 5
  timeoutSeconds: 3
livenessProbe:
  httpGet:
    path: /healthz/live
    port: metrics
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{- define "undermesh.scrape" -}}
{{- if .Values.metrics.annotations -}}
prometheus.io/scrape: "true"
prometheus.io/port: "15020"
prometheus.io/path: /metrics
{{- end -}}
{{- end }}
