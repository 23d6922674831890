{{/*
A Job around its pod template. Takes root, job (stage, condition, seed, nodes, needs), name, pod
(text), settings, policy (text), gated.
*/}}
{{- define "experiment.job" -}}
{{- $root := .root -}}
{{- $job := .job -}}
{{- $queue := $root.Values.queue -}}
{{- $queued := and $queue.name (ne $job.stage "conductor") -}}
{{- $waits := and $queued (not (empty $job.needs)) -}}
{{- /* With Kueue others change what stands here: say again what the cluster has. */ -}}
{{- $live := dict -}}
{{- if $waits }}{{ $live = lookup "batch/v1" "Job" $root.Release.Namespace .name | default dict }}{{ end -}}
{{- $held := or (empty $live) (hasKey (dig "metadata" "annotations" dict $live) "kueue.x-k8s.io/admission-gated-by") -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .name | quote }}
  labels:
    {{- include "experiment.selectorLabels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $job.stage }}
    app.kubernetes.io/part-of: personaspace
    app.kubernetes.io/managed-by: {{ $root.Release.Service }}
    personaspace.dev/stage: {{ $job.stage }}
    {{- with $job.condition }}
    personaspace.dev/condition: {{ .name | quote }}
    {{- end }}
    {{- if ge (int64 $job.seed) 0 }}
    personaspace.dev/seed: {{ $job.seed | quote }}
    {{- end }}
    {{- if and $queued (not (and $waits (eq $queue.gate "label"))) }}
    kueue.x-k8s.io/queue-name: {{ $queue.name | quote }}
    {{- end }}
  annotations:
    personaspace.dev/nodes: {{ join "," $job.nodes | quote }}
    personaspace.dev/needs: {{ ternary "*" (join "," $job.needs) (eq $job.stage "aggregate") | quote }}
    {{- with and (eq $job.stage "conductor") (include "experiment.demonstration" $root) }}
    personaspace.dev/notice: {{ . | replace "\n" " " | quote }}
    {{- end }}
    {{- if and $waits (eq $queue.gate "annotation") $held }}
    kueue.x-k8s.io/admission-gated-by: personaspace.dev/inputs
    {{- end }}
spec:
  {{- if and $waits (eq $queue.gate "label") }}
  suspend: {{ dig "spec" "suspend" true $live }}
  {{- end }}
  backoffLimit: {{ .backoffLimit }}
  podReplacementPolicy: Failed
  {{- if hasKey .settings "ttlSecondsAfterFinished" }}
  ttlSecondsAfterFinished: {{ int64 .settings.ttlSecondsAfterFinished }}
  {{- end }}
  {{- with .policy }}
  podFailurePolicy:
    {{- . | nindent 4 }}
  {{- end }}
  template:
    {{- .pod | nindent 4 }}
{{- end }}

{{/*
A Job's name: what it is for, cut to fit, and a hash of all that makes it what it is. Takes root,
job, hash.
*/}}
{{- define "experiment.jobName" -}}
{{- $end := .job.stage -}}
{{- if ge (int64 .job.seed) 0 }}{{ $end = printf "s%d-%s" (int64 .job.seed) .job.stage }}{{ end -}}
{{- $release := replace "." "-" (include "experiment.instance" .root) -}}
{{- $condition := dig "name" "" (.job.condition | default dict) -}}
{{- $room := int (sub 51 (len $end)) -}}
{{- $start := trimSuffix "-" (printf "%s-%s" $release $condition) -}}
{{- if and (gt (len $start) $room) $condition -}}
{{- $start = printf "%s-%s" ($release | trunc 12 | trimSuffix "-") $condition -}}
{{- end -}}
{{- printf "%s-%s-%s" ($start | trunc $room | trimSuffix "-") $end (trunc 10 .hash) -}}
{{- end }}
