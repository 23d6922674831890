{{/*
A Job's pod template. It cannot change once the Job exists, so nothing may stand here that changes
without a reason (no chart version, no checksums). Takes root, stage, settings, condition, seed, gated, args,
configs (names of the ConfigMaps that it reads), and what experiment.gpus takes.
*/}}
{{- define "experiment.pod" -}}
{{- $root := .root -}}
{{- $settings := .settings -}}
{{- $labels := dict "personaspace.dev/stage" .stage -}}
{{- with .condition }}{{ $_ := set $labels "personaspace.dev/condition" . }}{{ end -}}
{{- if ge (int64 .seed) 0 }}{{ $_ := set $labels "personaspace.dev/seed" (toString .seed) }}{{ end -}}
{{- $labels = merge $labels (include "experiment.selectorLabels" $root | fromYaml) ($settings.podLabels | default dict) -}}
{{- $gpus := int (include "experiment.gpus" .) -}}
{{- $claims := and (gt $gpus 0) (not (empty $settings.gpu.deviceClass)) -}}
{{- $grace := int64 ($settings.terminationGracePeriodSeconds | default 30) -}}
metadata:
  labels:
    {{- toYaml $labels | nindent 4 }}
  annotations:
    {{- merge (dict "kubectl.kubernetes.io/default-container" "stage") ($settings.podAnnotations | default dict) | toYaml | nindent 4 }}
spec:
  {{- if .gated }}
  schedulingGates:
    - name: personaspace.dev/inputs
  {{- end }}
  restartPolicy: Never
  {{- if eq .stage "conductor" }}
  serviceAccountName: {{ include "experiment.conductorAccount" $root | quote }}
  {{- else }}
  serviceAccountName: {{ include "experiment.account" $root | quote }}
  automountServiceAccountToken: false
  {{- end }}
  enableServiceLinks: false
  {{- with $settings.activeDeadlineSeconds }}
  activeDeadlineSeconds: {{ int64 . }}
  {{- end }}
  terminationGracePeriodSeconds: {{ $grace }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" "runtimeClassName" }}
  {{- with index $settings $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- if $claims }}
  resourceClaims:
    - name: gpu
      resourceClaimTemplateName: {{ include "experiment.claimName" (dict "root" $root "gpu" $settings.gpu "count" $gpus) }}
  {{- end }}
  securityContext:
    {{- toYaml $root.Values.podSecurityContext | nindent 4 }}
  containers:
    - name: stage
      image: {{ include "experiment.image" (dict "root" $root "image" $settings.image) | quote }}
      imagePullPolicy: {{ $settings.image.pullPolicy }}
      command: [python, -m, {{ .module | default "jobs" }}]
      {{- with .args }}
      args: {{ toJson . }}
      {{- end }}
      env:
        {{- $env := include "experiment.env" (dict "root" $root "more" .env "stage" .stage "grace" $grace) | fromYamlArray }}
        {{- include "experiment.merged" (dict "key" "name" "chart" $env "user" $settings.extraEnv) | nindent 8 }}
      {{- $from := include "experiment.envFrom" (dict "root" $root "settings" $settings) | fromYamlArray }}
      {{- with $from }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- $resources := include "experiment.resources" (dict "resources" $settings.resources "gpus" $gpus) | fromJson }}
      {{- if $claims }}
      {{- $_ := set $resources "claims" (list (dict "name" "gpu")) }}
      {{- else if gt $gpus 0 }}
      {{- $limits := merge (dict (include "experiment.gpuResource" $settings.gpu) (toString $gpus)) ($resources.limits | default dict) }}
      {{- $_ := set $resources "limits" $limits }}
      {{- end }}
      {{- with $resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- toYaml $root.Values.securityContext | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError
      {{- with include "experiment.metricsPort" . }}
      ports:
        - name: metrics
          containerPort: {{ . }}
      {{- end }}
      volumeMounts:
        {{- $mounts := include "experiment.mounts" $settings | fromYamlArray }}
        {{- include "experiment.merged" (dict "key" "mountPath" "chart" $mounts "user" $settings.extraVolumeMounts) | nindent 8 }}
  volumes:
    - name: study
      projected:
        sources:
          {{- range .configs }}
          - configMap: {name: {{ . | quote }}}
          {{- end }}
    {{- $volumes := include "experiment.volumes" (dict "root" $root "settings" $settings) | fromYamlArray }}
    {{- include "experiment.merged" (dict "key" "name" "chart" $volumes "user" $settings.extraVolumes) | nindent 4 }}
{{- end }}

{{/*
GPUs of a pod. Takes stage, settings, gpus (what the condition's training asks for) and spread (over how
many a study has its model spread).
*/}}
{{- define "experiment.gpus" -}}
{{- $gpus := int .settings.gpu.count -}}
{{- if and (gt $gpus 0) (has .stage (list "train" "couple" "condition")) }}{{ $gpus = max $gpus (int (.gpus | default 1)) }}{{ end -}}
{{- if gt $gpus 0 }}{{ $gpus = max $gpus (int (.spread | default 1)) }}{{ end -}}
{{- $gpus -}}
{{- end }}

{{/* Name of the template of a pod's claim on GPUs: what it asks for cannot change. Takes root, gpu, count. */}}
{{- define "experiment.claimName" -}}
{{- include "experiment.configName" (dict "root" .root "what" "gpu" "text" (toJson (list .gpu.deviceClass .gpu.deviceSelectors .count))) -}}
{{- end }}

{{/* The template of a pod's claim on GPUs (dynamic resource allocation). Takes root, gpu, count. */}}
{{- define "experiment.claimTemplate" -}}
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata:
  name: {{ include "experiment.claimName" . }}
  labels:
    {{- include "experiment.selectorLabels" .root | nindent 4 }}
    app.kubernetes.io/component: gpu
    app.kubernetes.io/part-of: personaspace
spec:
  spec:
    devices:
      requests:
        - name: gpu
          exactly:
            deviceClassName: {{ .gpu.deviceClass | quote }}
            allocationMode: ExactCount
            count: {{ .count }}
            {{- with .gpu.deviceSelectors }}
            selectors:
              {{- range . }}
              - cel: {expression: {{ . | quote }}}
              {{- end }}
            {{- end }}
{{- end }}

{{/*
Where a pod serves its numbers for Prometheus; empty: nowhere. The conductor's port is older than those of stages.
Takes root and stage.
*/}}
{{- define "experiment.metricsPort" -}}
{{- if eq .stage "conductor" -}}
{{- if or .root.Values.podMonitor.enabled .root.Values.metrics.enabled }}{{ int .root.Values.conductor.metricsPort }}{{ end -}}
{{- else if .root.Values.metrics.enabled -}}
{{- int .root.Values.metrics.port -}}
{{- end -}}
{{- end }}

{{- define "experiment.env" -}}
- {name: PERSONASPACE_SPEC, value: /etc/personaspace/experiment.yaml}
{{- with include "experiment.storeUrl" .root }}
- name: PERSONASPACE_STORE
  value: {{ . | quote }}
{{- end }}
{{- if include "experiment.trial" .root }}
{{- /* The trial server checks no signature, but clients insist on signing. */}}
- {name: AWS_ACCESS_KEY_ID, value: trial}
- {name: AWS_SECRET_ACCESS_KEY, value: trial}
{{- end }}
- {name: PERSONASPACE_LOG, value: {{ .root.Values.logFormat | quote }}}
- {name: PERSONASPACE_STORE_PATIENCE, value: "300"}
- {name: PERSONASPACE_GRACE, value: {{ .grace | quote }}}
- {name: PERSONASPACE_TERMINATION_LOG, value: /dev/termination-log}
- {name: PERSONASPACE_CACHE, value: /cache/personaspace}
- {name: HOME, value: /tmp}
- {name: USER, value: personaspace}
- {name: XDG_CACHE_HOME, value: /cache}
- {name: HF_HOME, value: /cache/huggingface}
- {name: HF_HUB_DISABLE_TELEMETRY, value: "1"}
- {name: VLLM_CACHE_ROOT, value: /cache/vllm}
- {name: VLLM_NO_USAGE_STATS, value: "1"}
- {name: TORCHINDUCTOR_CACHE_DIR, value: /tmp/inductor}
- {name: TRITON_CACHE_DIR, value: /tmp/triton}
- {name: MPLCONFIGDIR, value: /tmp/matplotlib}
- {name: PYTHONUNBUFFERED, value: "1"}
- {name: TQDM_DISABLE, value: "1"} {{- /* bars that libraries draw make a log unreadable */}}
{{- if and .root.Values.modelCache.offline (ne .stage "publish") }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- end }}
{{- /* The token that may write is publish's alone. */}}
{{- $token := .root.Values.hubToken }}
{{- if and (eq .stage "publish") .root.Values.publishToken.existingSecret }}{{ $token = .root.Values.publishToken }}{{ end }}
{{- with $token.existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ . | quote }}
      key: {{ $token.key | quote }}
{{- end }}
{{- if and (has .stage (list "judge" "condition")) .root.Values.judgeKey.existingSecret }}
{{- with dig "key_env" "" (.root.Values.experiment.judge | default dict) }}
- name: {{ . | quote }}
  valueFrom:
    secretKeyRef:
      name: {{ $.root.Values.judgeKey.existingSecret | quote }}
      key: {{ $.root.Values.judgeKey.key | default . | quote }}
{{- end }}
{{- end }}
{{- with include "experiment.metricsPort" (dict "root" .root "stage" .stage) }}
- {name: PERSONASPACE_METRICS_PORT, value: {{ . | quote }}}
{{- end }}
{{- with .more }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Where volumes are seen. Takes settings. */}}
{{- define "experiment.mounts" -}}
- {name: study, mountPath: /etc/personaspace, readOnly: true}
- {name: tmp, mountPath: /tmp}
- {name: cache, mountPath: /cache}
{{- if .shmSize }}
- {name: shm, mountPath: /dev/shm}
{{- end }}
{{- end }}

{{/* Volumes of a pod, but for the study. Takes root and settings. */}}
{{- define "experiment.volumes" -}}
{{- $cache := .root.Values.modelCache -}}
- {name: tmp, emptyDir: {}}
- name: cache
  {{- if eq $cache.type "pvc" }}
  persistentVolumeClaim:
    claimName: {{ required "modelCache.claim: name the PersistentVolumeClaim" $cache.claim | quote }}
  {{- else if eq $cache.type "hostPath" }}
  hostPath:
    path: {{ required "modelCache.path: name the folder on the node" $cache.path | quote }}
    type: DirectoryOrCreate
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- with .settings.shmSize }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ . | quote }}
{{- end }}
{{- end }}

{{/*
Two lists of which the API server takes each key once: what the user names is the user's. Takes key, chart
and user.
*/}}
{{- define "experiment.merged" -}}
{{- $key := .key -}}
{{- $user := .user | default list -}}
{{- $named := list -}}
{{- range $user }}{{ $named = append $named (include "experiment.place" (index . $key)) }}{{ end -}}
{{- $all := list -}}
{{- range .chart -}}
{{- if not (has (include "experiment.place" (index . $key)) $named) }}{{ $all = append $all . }}{{ end -}}
{{- end -}}
{{- toYaml (concat $all $user) -}}
{{- end }}

{{/* A name or path, as it is compared: /cache/ is /cache. */}}
{{- define "experiment.place" -}}
{{- if hasPrefix "/" . }}{{ clean . }}{{ else }}{{ . }}{{ end -}}
{{- end }}

{{- define "experiment.envFrom" -}}
{{- $from := list -}}
{{- if not (include "experiment.trial" .root) }}
{{- with .root.Values.store.existingSecret }}{{ $from = append $from (dict "secretRef" (dict "name" .)) }}{{ end -}}
{{- end }}
{{- toYaml (concat $from (.settings.extraEnvFrom | default list)) -}}
{{- end }}
