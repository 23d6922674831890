{{/*
What the API server would refuse in pods, and what would break the chart's own, at `pods` and stage by
stage. Gives a JSON list of complaints.
*/}}
{{- define "experiment.checks.pods" -}}
{{- $root := . -}}
{{- $wrong := list -}}
{{- $all := dict "pods" .Values.pods -}}
{{- range $stage, $settings := .Values.stages }}{{ $_ := set $all (printf "stages.%s" $stage) $settings }}{{ end -}}
{{- range $at, $settings := $all -}}
{{- $settings = $settings | default dict -}}
{{- $wrong = concat $wrong (include "experiment.checks.once" (dict "at" (printf "%s.extraEnv" $at) "key" "name" "list" $settings.extraEnv "own" (list "PERSONASPACE_SPEC" "PERSONASPACE_SPEC_SCHEMA" "PERSONASPACE_TERMINATION_LOG" "PERSONASPACE_JOBS" "PERSONASPACE_RELEASE" "PERSONASPACE_NAMESPACE" "PERSONASPACE_POD" "PERSONASPACE_QUEUE" "PERSONASPACE_QUEUE_GATE")) | fromJsonArray) -}}
{{- $wrong = concat $wrong (include "experiment.checks.once" (dict "at" (printf "%s.extraVolumes" $at) "key" "name" "list" $settings.extraVolumes "own" (list "study")) | fromJsonArray) -}}
{{- $wrong = concat $wrong (include "experiment.checks.once" (dict "at" (printf "%s.extraVolumeMounts" $at) "key" "mountPath" "list" $settings.extraVolumeMounts "own" (list "/etc/personaspace")) | fromJsonArray) -}}
{{- end -}}
{{- $labelled := dict "serviceAccount.labels" .Values.serviceAccount.labels "podMonitor.labels" .Values.podMonitor.labels "dashboard.labels" .Values.dashboard.labels -}}
{{- $amounts := dict "check.resources" .Values.check.resources "livePage.resources" .Values.livePage.resources "seaweedfs.resources" .Values.seaweedfs.resources -}}
{{- range $at, $settings := $all -}}
{{- $_ := set $labelled (printf "%s.podLabels" $at) (index ($settings | default dict) "podLabels") -}}
{{- $_ := set $amounts (printf "%s.resources" $at) (index ($settings | default dict) "resources") -}}
{{- end -}}
{{- range $at, $labels := $labelled -}}
{{- range $name, $_ := $labels -}}
{{- if regexMatch "^(app[.]kubernetes[.]io/(name|instance|version|part-of|managed-by|component)|helm[.]sh/chart|personaspace[.]dev/.*|(batch[.]kubernetes[.]io/)?(job-name|controller-uid))$" $name }}{{ $wrong = append $wrong (printf "%s: %s is the chart's own, by which pods are found" $at $name) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- range $at, $resources := $amounts -}}
{{- $limits := index ($resources | default dict) "limits" | default dict -}}
{{- range $name, $amount := index ($resources | default dict) "requests" -}}
{{- $limit := get $limits $name | toString -}}
{{- if and (hasKey $limits $name) (gt (float64 (include "experiment.amount" $amount)) (float64 (include "experiment.amount" $limit))) }}{{ $wrong = append $wrong (printf "%s.requests.%s: %s is more than its limit, %s (what you leave out is the chart's own)" $at $name (toString $amount) $limit) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if .Values.seaweedfs.enabled }}{{ $wrong = append $wrong (include "experiment.checks.image" (dict "at" "seaweedfs.image" "image" .Values.seaweedfs.image)) }}{{ end -}}
{{- $stages := ternary (list "condition") (list "train" "extract" "couple" "evaluate") .Values.fuse -}}
{{- if and .Values.experiment.judge (not .Values.fuse) }}{{ $stages = append $stages "judge" }}{{ end -}}
{{- if .Values.experiment.publish }}{{ $stages = append $stages "publish" }}{{ end -}}
{{- range $stage := concat $stages (list "aggregate" "conductor") -}}
{{- $settings := include "experiment.settings" (dict "root" $root "stage" $stage) | fromJson -}}
{{- $wrong = append $wrong (include "experiment.checks.image" (dict "at" $settings.imageOf "image" $settings.image)) -}}
{{- $resource := include "experiment.gpuResource" $settings.gpu -}}
{{- $at := ternary (printf "stages.%s.gpu" $stage) "gpu" (not (empty (dig $stage "gpu" dict $root.Values.stages))) -}}
{{- if and $settings.gpu.deviceClass $settings.gpu.migProfile }}{{ $wrong = append $wrong (printf "%s.migProfile: a claimed slice is named in deviceSelectors, not here (deviceClass is set)" $at) }}{{ end -}}
{{- if and $settings.gpu.deviceSelectors (not $settings.gpu.deviceClass) }}{{ $wrong = append $wrong (printf "%s.deviceSelectors: need deviceClass, whose devices they choose from" $at) }}{{ end -}}
{{- $own := index $root.Values.stages $stage | default dict -}}
{{- $at := ternary (printf "stages.%s" $stage) "pods" (not (empty $own.resources)) -}}
{{- range $kind := list "requests" "limits" -}}
{{- range $name, $_ := index ($settings.resources | default dict) $kind -}}
{{- if or (eq $name $resource) (regexMatch "/gpu$|^nvidia[.]com/mig-" $name) }}{{ $wrong = append $wrong (printf "%s.resources.%s: GPUs stand in %s.count, not in %s" $at $kind (ternary "gpu" (printf "%s.gpu" $at) (eq $at "pods")) $name) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $known := list "study" "tmp" "cache" -}}
{{- if $settings.shmSize }}{{ $known = append $known "shm" }}{{ end -}}
{{- range $settings.extraVolumes }}{{ $known = append $known .name }}{{ end -}}
{{- $at := ternary (printf "stages.%s" $stage) "pods" (not (kindIs "invalid" $own.extraVolumeMounts)) -}}
{{- range $index, $mount := $settings.extraVolumeMounts -}}
{{- if not (has $mount.name $known) }}{{ $wrong = append $wrong (printf "%s.extraVolumeMounts[%d].name: there is no volume %q" $at $index $mount.name) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- toJson (uniq (compact $wrong)) -}}
{{- end }}

{{/*
An image without a registry is some public registry's, where anybody may own the name: then it must be pinned,
or be on the node already. Takes image and where its values stand, gives a complaint or nothing.
*/}}
{{- define "experiment.checks.image" -}}
{{- $image := .image -}}
{{- $host := first (splitList "/" $image.repository) -}}
{{- $named := and (contains "/" $image.repository) (or (regexMatch "[.:]" $host) (eq $host "localhost")) -}}
{{- if not (or $image.registry $image.digest $named (eq $image.pullPolicy "Never")) -}}
{{ .at }}.registry: name the registry that holds your {{ $image.repository }} (or give {{ .at }}.digest; or {{ .at }}.pullPolicy: Never where the nodes have it)
{{- end -}}
{{- end }}

{{/* An amount of Kubernetes' (500m, 1.5Gi, 1e9) as a number. */}}
{{- define "experiment.amount" -}}
{{- $text := toString . -}}
{{- if regexMatch "^[0-9.]+([eE][-+]?[0-9]+)?$" $text -}}
{{- float64 $text -}}
{{- else -}}
{{- $number := regexFind "^[0-9.]+" $text -}}
{{- $units := dict "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- mulf (float64 $number) (get $units (trimPrefix $number $text)) -}}
{{- end -}}
{{- end }}

{{/* Entries that are there twice, or that are the chart's alone. Takes at, key, list and own. */}}
{{- define "experiment.checks.once" -}}
{{- $wrong := list -}}
{{- $seen := list -}}
{{- range $index, $entry := .list -}}
{{- $name := include "experiment.place" (index $entry $.key) -}}
{{- $where := printf "%s[%d].%s" $.at $index $.key -}}
{{- if has $name $seen }}{{ $wrong = append $wrong (printf "%s: %q is listed twice" $where $name) }}{{ end -}}
{{- if has $name $.own }}{{ $wrong = append $wrong (printf "%s: %q is the chart's own" $where $name) }}{{ end -}}
{{- $seen = append $seen $name -}}
{{- end -}}
{{- toJson $wrong -}}
{{- end }}
