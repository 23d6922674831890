{{/*
What all is known by: the release. A parent chart that has this one under an alias has each under its own name,
which no release has by chance.
*/}}
{{- define "experiment.instance" -}}
{{- if eq .Chart.Name "experiment" -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" (printf "%s-%s" .Release.Name .Chart.Name | trunc 46 | trimSuffix "-") (sha256sum (printf "%s/%s" .Release.Name .Chart.Name) | trunc 6) -}}
{{- end -}}
{{- end }}

{{/* Name of the release's objects: at most 53 characters, a DNS label even where the release's name has dots. */}}
{{- define "experiment.fullname" -}}
{{- $name := include "experiment.instance" . -}}
{{- if contains "." $name -}}
{{- printf "%s-%s" (replace "." "-" $name | trunc 45 | trimSuffix "-") (sha256sum $name | trunc 6) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end }}

{{/* What pods are selected by; never changes. */}}
{{- define "experiment.selectorLabels" -}}
app.kubernetes.io/name: personaspace
app.kubernetes.io/instance: {{ include "experiment.instance" . | quote }}
{{- end }}

{{/* Of the live page's pod, which is none of the study's. */}}
{{- define "experiment.pageLabels" -}}
app.kubernetes.io/name: personaspace-page
app.kubernetes.io/instance: {{ include "experiment.instance" . | quote }}
{{- end }}

{{- define "experiment.labels" -}}
{{ include "experiment.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: personaspace
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (replace "+" "_" .Chart.Version) }}
{{- end }}

{{/*
Name of a ConfigMap that never changes: it ends in a hash of what it holds, so that a pod reads what its
Job was made for, however often its Job starts pods and whatever was upgraded since. Takes root, what, text.
*/}}
{{- define "experiment.configName" -}}
{{- $hash := printf "%s\n%s" (include "experiment.instance" .root) .text | sha256sum | trunc 10 -}}
{{- printf "%s-%s-%s" (include "experiment.fullname" .root | trunc 45 | trimSuffix "-") .what $hash -}}
{{- end }}

{{/* Takes root, name, what (study, part or jobs), file, text. The study's says where artifacts go. */}}
{{- define "experiment.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .name | quote }}
  labels:
    {{- include "experiment.selectorLabels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .what }}
    app.kubernetes.io/part-of: personaspace
    app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  {{- if eq .what "study" }}
  annotations:
    personaspace.dev/store: {{ include "experiment.storeUrl" .root | quote }}
    personaspace.dev/store-secret: {{ ternary "" .root.Values.store.existingSecret (not (empty (include "experiment.trial" .root))) | quote }}
  {{- end }}
immutable: true
data:
  {{ .file }}: |
    {{- .text | nindent 4 }}
{{- end }}

{{/* Name of the ConfigMap with the whole study. */}}
{{- define "experiment.studyName" -}}
{{- include "experiment.configName" (dict "root" . "what" "study" "text" (toYaml .Values.experiment)) -}}
{{- end }}

{{/*
Name of what a Service leads to: RELEASE-WORD, with START before it where the release's name begins with a digit,
as a Service's begins with a letter. Takes root, word, start.
*/}}
{{- define "experiment.served" -}}
{{- $full := include "experiment.fullname" .root -}}
{{- $name := printf "%s-%s" $full .word -}}
{{- if regexMatch "^[0-9]" $name -}}
{{- printf "%s-%s-%s" .start ($full | trunc 43 | trimSuffix "-") (sha256sum (include "experiment.instance" .root) | trunc 10) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end }}

{{/* Name of the trial server's objects. */}}
{{- define "experiment.seaweedfs" -}}
{{- include "experiment.served" (dict "root" . "word" "seaweedfs" "start" "s3") -}}
{{- end }}

{{/* Name of the live page's objects. */}}
{{- define "experiment.page" -}}
{{- include "experiment.served" (dict "root" . "word" "page" "start" "page") -}}
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
Takes root, stage and adopts (of a train Job: that it takes a published adapter, which needs no GPU), gives JSON.
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
{{- if or .adopts (has .stage (list "aggregate" "publish" "conductor")) }}{{ $_ := set $gpu "count" 0 }}{{ end -}}
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

{{/*
Service accounts. Each of the chart's own ends in a word of its own: `em` and `em-conductor` may be two releases.
*/}}
{{- define "experiment.account" -}}
{{- .Values.serviceAccount.name | default (printf "%s-stages" (include "experiment.fullname" .)) -}}
{{- end }}

{{- define "experiment.conductorAccount" -}}
{{- .Values.serviceAccount.conductorName | default (printf "%s-conductor" (include "experiment.fullname" .)) -}}
{{- end }}

{{- define "experiment.pageAccount" -}}
{{- .Values.serviceAccount.pageName | default (include "experiment.page" .) -}}
{{- end }}

{{/*
CPU and memory of a pod, as JSON: what is said is for one GPU, and a pod with more needs as many times as much.
Takes resources and gpus.
*/}}
{{- define "experiment.resources" -}}
{{- $resources := .resources | default dict | deepCopy -}}
{{- $gpus := int .gpus -}}
{{- if gt $gpus 1 -}}
{{- range $kind := list "requests" "limits" -}}
{{- $amounts := index $resources $kind | default dict -}}
{{- range $name := list "cpu" "memory" "ephemeral-storage" -}}
{{- with index $amounts $name }}{{ $_ := set $amounts $name (include "experiment.times" (list (toString .) $gpus)) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $resources -}}
{{- end }}

{{/* An amount, so many times: `500m`, 8 is `4000m`. Takes both as a list. */}}
{{- define "experiment.times" -}}
{{- $number := regexFind "^[0-9.]+" (first .) -}}
{{- $unit := trimPrefix $number (first .) -}}
{{- if contains "." $number }}{{ mulf (float64 $number) (last .) }}{{ else }}{{ mul (int64 $number) (last .) }}{{ end }}{{ $unit -}}
{{- end }}

{{/*
When a failed pod counts, as YAML. With a deadline of its own a pod that was asked to stop may have run into it, and
would be tried without end; what is the user's own policy stands. Takes root and settings.
*/}}
{{- define "experiment.policy" -}}
{{- $policy := .settings.podFailurePolicy | default dict -}}
{{- $default := (.root.Files.Get "defaults.json" | fromJson).values.pods.podFailurePolicy -}}
{{- $same := eq (toJson $policy) (toJson $default) -}}
{{- $rules := list -}}
{{- range $rule := $policy.rules -}}
{{- $asked := and $same $.settings.activeDeadlineSeconds (eq $rule.action "Ignore") $rule.onExitCodes -}}
{{- if not $asked }}{{ $rules = append $rules $rule }}{{ end -}}
{{- end -}}
{{- if $rules }}{{ include "experiment.rules" (dict "root" .root "rules" $rules) }}{{ end -}}
{{- end }}

{{/* Up to 1.28 Kubernetes' definition wants conditions in every rule, and later ones drop an empty list. */}}
{{- define "experiment.rules" -}}
{{- $rules := list -}}
{{- range $rule := .rules -}}
{{- $rule = ternary $rule (omit $rule "onPodConditions") (not (empty $rule.onPodConditions)) -}}
{{- if semverCompare "<1.29.0-0" $.root.Capabilities.KubeVersion.Version }}{{ $rule = merge (dict) $rule (dict "onPodConditions" list) }}{{ end -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- toYaml (dict "rules" $rules) -}}
{{- end }}
