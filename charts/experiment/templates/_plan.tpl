{{/*
The Jobs in an order in which they can run: the stage graph of personaspace.graph, in Go.
tests/test_chart_graph.py holds the two together. Takes root and jobs (a list holder), fills it.
A Job has stage, condition, seed, nodes (what it runs) and needs (nodes of other Jobs).
*/}}
{{- define "experiment.plan" -}}
{{- $holder := .holder -}}
{{- $study := .root.Values.experiment -}}
{{- $fuse := .root.Values.fuse -}}
{{- $jobs := list -}}
{{- $stages := dict "train" list "extract" list "couple" list "evaluate" list -}}
{{- range $index, $seed := $study.seeds -}}
{{- range $condition := $study.conditions -}}
{{- $name := $condition.name -}}
{{- $of := printf "%s:%d" $name (int64 $seed) -}}
{{- $common := dict "condition" $condition "seed" (int64 $seed) -}}
{{- $trained := not (empty $condition.dataset) -}}
{{- $adapter := ternary (list (printf "train:%s" $of)) list $trained -}}
{{- $nodes := dict -}}
{{- if $trained }}{{ $_ := set $nodes "train" list }}{{ end -}}
{{- /* The base model's activations do not depend on the seed: extracted once. */ -}}
{{- if or $trained (eq $index 0) }}{{ $_ := set $nodes "extract" $adapter }}{{ end -}}
{{- $_ := set $nodes "couple" $adapter -}}
{{- $_ := set $nodes "evaluate" (append $adapter (printf "couple:%s" $of)) -}}
{{- if $fuse -}}
{{- $ids := list -}}
{{- range $stage := list "train" "extract" "couple" "evaluate" -}}
{{- if hasKey $nodes $stage }}{{ $ids = append $ids (printf "%s:%s" $stage $of) }}{{ end -}}
{{- end -}}
{{- $jobs = append $jobs (merge (dict "stage" "condition" "nodes" $ids "needs" list) $common) -}}
{{- else -}}
{{- range $stage, $needs := $nodes -}}
{{- $job := merge (dict "stage" $stage "nodes" (list (printf "%s:%s" $stage $of)) "needs" $needs) $common -}}
{{- $_ := set $stages $stage (append (index $stages $stage) $job) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not $fuse -}}
{{- $jobs = concat $stages.train $stages.extract $stages.couple $stages.evaluate -}}
{{- end -}}
{{- $_ := set $holder "jobs" $jobs -}}
{{- end }}

{{/*
What a stage reads of the study, as JSON: what is not here cannot change its Job's name. It may say
more than personaspace.graph._reads, never less; tests/test_chart_names.py tries every field.
Takes root, stage and condition.
*/}}
{{- define "experiment.part" -}}
{{- $study := .root.Values.experiment -}}
{{- $condition := .condition -}}
{{- $part := dict "stage" .stage "model" $study.model -}}
{{- $_ := set $part "condition" (omit $condition "label" "cosine_anchor" "gpus") -}}
{{- $dataset := $condition.dataset | default "" -}}
{{- $_ := set $part "dataset" (dig "datasets" $dataset "" $study) -}}
{{- $_ := set $part "training" (omit $study.training "checkpoint_every") -}}
{{- range $persona := $study.personas -}}
{{- if eq $persona.name ($condition.persona | default "") }}{{ $_ := set $part "persona" $persona }}{{ end -}}
{{- end -}}
{{- if ne .stage "train" -}}
{{- $_ := set $part "personas" $study.personas -}}
{{- $kinds := list -}}
{{- range $other := $study.conditions -}}
{{- $kinds = append $kinds (omit $other "label" "cosine_anchor" "gpus") -}}
{{- end -}}
{{- $_ := set $part "engine" (dig "engine" "" $study.generation) -}}
{{- $_ := set $part "assistant" (dig "assistant" "" $study.analysis) -}}
{{- $extract := or (eq .stage "extract") (eq .stage "condition") -}}
{{- $couple := or (eq .stage "couple") (eq .stage "condition") -}}
{{- $evaluate := or (eq .stage "evaluate") (eq .stage "condition") -}}
{{- if $extract -}}
{{- $_ := set $part "extraction" $study.extraction -}}
{{- $_ := set $part "grid" (dig "personas" "" $study.evaluation) -}}
{{- if or (eq ($condition.kind | default "") "base") (empty $condition.dataset) }}{{ $_ := set $part "conditions" $kinds }}{{ end -}}
{{- end -}}
{{- if or $couple $evaluate }}{{ $_ := set $part "coupling" $study.coupling }}{{ end -}}
{{- if $evaluate -}}
{{- $_ := set $part "evaluation" $study.evaluation -}}
{{- $_ := set $part "conditions" $kinds -}}
{{- end -}}
{{- end -}}
{{- toJson $part -}}
{{- end }}

{{/* Nonces of the reruns that mean one of a Job's nodes, as JSON. Takes root and job. */}}
{{- define "experiment.nonces" -}}
{{- $found := list -}}
{{- $job := .job -}}
{{- range $rerun := .root.Values.experiment.rerun -}}
{{- $stage := or (eq $rerun.stage $job.stage) (and (eq $job.stage "condition") (ne $rerun.stage "aggregate")) -}}
{{- $condition := or (empty $rerun.condition) (eq $rerun.condition (dig "name" "" ($job.condition | default dict))) -}}
{{- $seed := or (kindIs "invalid" $rerun.seed) (eq (int64 ($rerun.seed | default 0)) (int64 $job.seed)) -}}
{{- if and $stage $condition $seed }}{{ $found = append $found $rerun }}{{ end -}}
{{- end -}}
{{- toJson $found -}}
{{- end }}
