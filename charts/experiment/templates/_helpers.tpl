{{/* Name of the release's objects: at most 53 characters, a DNS label even where the release's name has dots. */}}
{{- define "experiment.fullname" -}}
{{- $name := .Release.Name -}}
{{- if contains "." $name -}}
{{- printf "%s-%s" (replace "." "-" $name | trunc 45 | trimSuffix "-") (sha256sum $name | trunc 6) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end }}

{{/* What pods are selected by; never changes. */}}
{{- define "experiment.selectorLabels" -}}
app.kubernetes.io/name: personaspace
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "experiment.labels" -}}
{{ include "experiment.selectorLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (replace "+" "_" .Chart.Version) }}
{{- end }}

{{/*
Name of a ConfigMap that never changes: it ends in a hash of what it holds, so that a pod reads what its
Job was made for, however often its Job starts pods and whatever was upgraded since. Takes root, what, text.
*/}}
{{- define "experiment.configName" -}}
{{- $hash := printf "%s\n%s" .root.Release.Name .text | sha256sum | trunc 10 -}}
{{- printf "%s-%s-%s" (include "experiment.fullname" .root | trunc 45 | trimSuffix "-") .what $hash -}}
{{- end }}

{{/* Takes root, name, file, text. */}}
{{- define "experiment.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .name | quote }}
  labels:
    {{- include "experiment.selectorLabels" .root | nindent 4 }}
    app.kubernetes.io/managed-by: {{ .root.Release.Service }}
immutable: true
data:
  {{ .file }}: |
    {{- .text | nindent 4 }}
{{- end }}

{{/* Name of the ConfigMap with the whole study. */}}
{{- define "experiment.studyName" -}}
{{- include "experiment.configName" (dict "root" . "what" "study" "text" (toYaml .Values.experiment)) -}}
{{- end }}

{{/* Name of the trial server's objects. A Service's begins with a letter. */}}
{{- define "experiment.seaweedfs" -}}
{{- $name := printf "%s-seaweedfs" (include "experiment.fullname" .) -}}
{{- if regexMatch "^[0-9]" $name -}}
{{- printf "s3-%s-%s" (include "experiment.fullname" . | trunc 43 | trimSuffix "-") (sha256sum .Release.Name | trunc 10) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end }}

{{/* An image's name. Takes root and image. */}}
{{- define "experiment.image" -}}
{{- $image := .image -}}
{{- with $image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* "yes" where the trial server holds the artifacts; it takes any key, so no secret is needed. */}}
{{- define "experiment.trial" -}}
{{- if and .Values.seaweedfs.enabled (not .Values.store.url) }}yes{{ end -}}
{{- end }}

{{/* The store's address; empty: the secret names it. */}}
{{- define "experiment.storeUrl" -}}
{{- if .Values.store.url -}}
{{- .Values.store.url -}}
{{- else if .Values.seaweedfs.enabled -}}
s3://personaspace?endpoint=http://{{ include "experiment.seaweedfs" . }}:8333&region=us-east-1
{{- end -}}
{{- end }}

{{/*
Settings of a stage's pods: a stage's own replace those of `pods`, one by one.
Takes root and stage, gives JSON.
*/}}
{{- define "experiment.settings" -}}
{{- $settings := dict -}}
{{- range $key, $value := .root.Values.pods -}}
{{- if not (kindIs "invalid" $value) }}{{ $_ := set $settings $key $value }}{{ end -}}
{{- end -}}
{{- /* The conductor lives as long as the study: a deadline of stages is none of its own. */ -}}
{{- if eq .stage "conductor" }}{{ $_ := unset $settings "activeDeadlineSeconds" }}{{ end -}}
{{- range $key, $value := index .root.Values.stages .stage | default dict -}}
{{- if not (kindIs "invalid" $value) }}{{ $_ := set $settings $key $value }}{{ end -}}
{{- end -}}
{{- /* Not sprig's merge: it takes 0 and "" for unset. */ -}}
{{- $gpu := deepCopy .root.Values.gpu -}}
{{- range $key, $value := dig "gpu" dict $settings }}{{ if not (kindIs "invalid" $value) }}{{ $_ := set $gpu $key $value }}{{ end }}{{ end -}}
{{- if has .stage (list "aggregate" "conductor") }}{{ $_ := set $gpu "count" 0 }}{{ end -}}
{{- $_ := set $settings "gpu" $gpu -}}
{{- /* What only pods with a GPU need does not bind those without one. */ -}}
{{- if gt (int $gpu.count) 0 -}}
{{- with $gpu.runtimeClassName }}{{ $_ := set $settings "runtimeClassName" . }}{{ end -}}
{{- with $gpu.nodeSelector }}{{ $_ := set $settings "nodeSelector" (merge (deepCopy .) ($settings.nodeSelector | default dict)) }}{{ end -}}
{{- with $gpu.tolerations }}{{ $_ := set $settings "tolerations" (concat ($settings.tolerations | default list) .) }}{{ end -}}
{{- end -}}
{{- $of := ternary "image" "cpuImage" (gt (int $gpu.count) 0) -}}
{{- $image := index .root.Values $of | deepCopy -}}
{{- $own := dig "image" dict $settings -}}
{{- /* The digest belongs to the image that it stands beside. */ -}}
{{- if or $own.tag $own.repository }}{{ $_ := set $image "digest" "" }}{{ end -}}
{{- range $key, $value := $own }}{{ if not (kindIs "invalid" $value) }}{{ $_ := set $image $key $value }}{{ end }}{{ end -}}
{{- $_ := set $settings "image" $image -}}
{{- $_ := set $settings "imageOf" $of -}}
{{- toJson $settings -}}
{{- end }}

{{/* Name of the resource that a GPU pod asks for. */}}
{{- define "experiment.gpuResource" -}}
{{- if .migProfile }}{{ printf "nvidia.com/mig-%s" .migProfile }}{{ else }}{{ .resource }}{{ end -}}
{{- end }}

{{/* That a study trains on packaged chats, and for how long; empty if it does not. */}}
{{- define "experiment.demonstration" -}}
{{- $packaged := not .Values.experiment.datasets -}}
{{- range .Values.experiment.datasets }}{{ if hasPrefix "builtin:chats-" (default "" .path) }}{{ $packaged = true }}{{ end }}{{ end -}}
{{- if $packaged -}}
{{- $recipe := .Values.experiment.training -}}
{{- $steps := mul $recipe.epochs (ceil (divf 510 $recipe.batch_size)) | int -}}
{{- if $recipe.max_steps }}{{ $steps = min $steps $recipe.max_steps | int }}{{ end -}}
Demonstration data: fine-tuning is at most {{ $steps }} steps on at most 510 packaged chats; the published
study had 375 steps on 6,000 chats of its own. Results say nothing about its numbers.
{{- end -}}
{{- end }}

{{/*
What the user's values leave empty (null: a section whose lines are all commented out) Helm removes: it is
the chart's own again. Changes .Values; every template begins with it.
*/}}
{{- define "experiment.ready" -}}
{{- $defaults := .Files.Get "defaults.json" | fromJson -}}
{{- range $path := $defaults.needed -}}
{{- $values := $.Values -}}
{{- $default := $defaults.values -}}
{{- range $name := initial $path -}}
{{- $values = index $values $name -}}
{{- $default = index $default $name -}}
{{- end -}}
{{- if kindIs "invalid" (index $values (last $path)) }}{{ $_ := set $values (last $path) (index $default (last $path)) }}{{ end -}}
{{- end -}}
{{- end }}
