{{/*
The Jobs in an order in which they can run: the stage graph of personaspace.pipeline.graph, in Go.
tests/test_chart_graph.py holds it equal to what the stages say of themselves (personaspace/pipeline/
stages); docs/decisions/0008-one-stage.md says why it is not rendered from them. Takes root and jobs (a list holder), fills it.
A Job has stage, condition, seed, nodes (what it runs) and needs (nodes of other Jobs).
*/}}
{{- define "experiment.plan" -}}
{{- $holder := .holder -}}
{{- $study := .root.Values.experiment -}}
{{- $fuse := .root.Values.fuse -}}
{{- $jobs := list -}}
{{- $stages := dict "train" list "extract" list "couple" list "evaluate" list "judge" list "logodds" list "steer" list -}}
{{- /* Coupled before fine-tuning: once a seed, base's, and so base comes first. */ -}}
{{- $first := include "experiment.coupledFirst" $study -}}
{{- $base := include "experiment.base" $study -}}
{{- $conditions := $study.conditions -}}
{{- if $first -}}
{{- $conditions = list -}}
{{- range $condition := $study.conditions -}}
{{- $conditions = ternary (prepend $conditions $condition) (append $conditions $condition) (eq $condition.name $base) -}}
{{- end -}}
{{- end -}}
{{- $doses := include "experiment.doses" $study | fromJsonArray -}}
{{- $measured := $study.training.doses_in | default list -}}
{{- $ofDose := concat (list "train") $measured (ternary (list "couple") list (has "evaluate" $measured)) -}}
{{- range $seed := $study.seeds -}}
{{- range $condition := concat $conditions $doses -}}
{{- $own := include "experiment.seedsOf" (dict "study" $study "condition" $condition) | fromJsonArray -}}
{{- if has (toString (int64 $seed)) $own -}}
{{- $name := $condition.name -}}
{{- $once := eq (toString (int64 $seed)) (first $own) -}}
{{- $of := printf "%s:%d" $name (int64 $seed) -}}
{{- $common := dict "condition" $condition "seed" (int64 $seed) -}}
{{- $trained := not (empty (or $condition.dataset $condition.adapter)) -}}
{{- $adapter := ternary (list (printf "train:%s" $of)) list $trained -}}
{{- $coupling := printf "couple:%s:%d" (ternary $base $name (not (empty $first))) (int64 $seed) -}}
{{- $coupled := ternary (list $coupling) list (not (empty $first)) -}}
{{- $nodes := dict -}}
{{- if $trained }}{{ $_ := set $nodes "train" $coupled }}{{ end -}}
{{- /* The base model's activations do not depend on the seed: extracted under its first one. */ -}}
{{- if or $trained $first $once }}{{ $_ := set $nodes "extract" (concat $adapter $coupled) }}{{ end -}}
{{- if not $first }}{{ $_ := set $nodes "couple" $adapter }}{{ end -}}
{{- if and $first (eq $name $base) }}{{ $_ := set $nodes "couple" list }}{{ end -}}
{{- $_ := set $nodes "evaluate" (append $adapter $coupling) -}}
{{- if and $study.judge (or $trained $first $once) }}{{ $_ := set $nodes "judge" (concat $adapter $coupled) }}{{ end -}}
{{- if kindIs "map" $study.log_odds }}{{ $_ := set $nodes "logodds" (append (append $adapter $coupling) (printf "evaluate:%s" $of)) }}{{ end -}}
{{- if include "experiment.steers" (dict "study" $study "condition" $condition "seed" $seed "trained" $trained) -}}
{{- if or $trained $first $once }}{{ $_ := set $nodes "steer" (concat $adapter (list (printf "extract:%s" $of)) $coupled) }}{{ end -}}
{{- end -}}
{{- /* A dose is taken from the whole training, and has some of the stages alone. */ -}}
{{- $whole := ternary (list (printf "train:%s:%d" ($condition.of | default "") (int64 $seed))) list (hasKey $condition "of") -}}
{{- if $whole -}}
{{- $_ := set $nodes "train" (concat $nodes.train $whole) -}}
{{- range $stage := keys $nodes }}{{ if not (has $stage $ofDose) }}{{ $_ := unset $nodes $stage }}{{ end }}{{ end -}}
{{- end -}}
{{- if $fuse -}}
{{- $ids := list -}}
{{- range $stage := list "train" "extract" "couple" "evaluate" "judge" "logodds" "steer" -}}
{{- if hasKey $nodes $stage }}{{ $ids = append $ids (printf "%s:%s" $stage $of) }}{{ end -}}
{{- end -}}
{{- $needs := concat (ternary list $coupled (has $coupling $ids)) $whole -}}
{{- $jobs = append $jobs (merge (dict "stage" "condition" "nodes" $ids "needs" $needs) $common) -}}
{{- else -}}
{{- range $stage, $needs := $nodes -}}
{{- $job := merge (dict "stage" $stage "nodes" (list (printf "%s:%s" $stage $of)) "needs" $needs) $common -}}
{{- $_ := set $stages $stage (append (index $stages $stage) $job) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not $fuse -}}
{{- if $first -}}
{{- $jobs = concat $stages.couple $stages.train $stages.extract $stages.evaluate $stages.judge $stages.logodds $stages.steer -}}
{{- else -}}
{{- $jobs = concat $stages.train $stages.extract $stages.couple $stages.evaluate $stages.judge $stages.logodds $stages.steer -}}
{{- end -}}
{{- end -}}
{{- $_ := set $holder "jobs" $jobs -}}
{{- end }}

{{/*
The doses of all conditions that are trained, each the condition with a name of its own, step and of (whose dose
it is), as a JSON list. Takes the study.
*/}}
{{- define "experiment.doses" -}}
{{- $study := . -}}
{{- $found := list -}}
{{- range $condition := $study.conditions -}}
{{- $own := $condition.training | default dict -}}
{{- $most := ternary (get $own "max_steps") $study.training.max_steps (hasKey $own "max_steps") -}}
{{- range $step := ternary ($study.training.doses | default list) list (not (empty $condition.dataset)) -}}
{{- if or (empty $most) (lt (int64 $step) (int64 $most)) -}}
{{- $dose := dict "name" (printf "%s-at-%d" $condition.name (int64 $step)) "of" $condition.name "step" (int64 $step) -}}
{{- $found = append $found (merge $dose $condition) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end }}

{{/* "true" where the marker is coupled before fine-tuning. */}}
{{- define "experiment.coupledFirst" -}}
{{- if eq (dig "coupling" "order" "after" .) "before" }}true{{ end -}}
{{- end }}

{{/*
"true" where this run's vectors are steered along (personaspace.study.spec.Experiment.steers). Takes
study, condition, seed and trained.
*/}}
{{- define "experiment.steers" -}}
{{- $steering := .study.steering -}}
{{- if kindIs "map" $steering -}}
{{- $personas := without ($steering.vectors | default (list "shift")) "shift" -}}
{{- $shift := has "shift" ($steering.vectors | default (list "shift")) -}}
{{- $ablate := has "ablate" ($steering.modes | default (list "add" "ablate")) -}}
{{- $add := has "add" ($steering.modes | default (list "add" "ablate")) -}}
{{- $seeds := list -}}
{{- range $steering.seeds }}{{ $seeds = append $seeds (int64 .) }}{{ end -}}
{{- $named := or (not $steering.conditions) (has .condition.name $steering.conditions) -}}
{{- $own := or $ablate (and $add $shift) -}}
{{- if .trained -}}
{{- if and $named $own (or (not $seeds) (has (int64 .seed) $seeds)) }}true{{ end -}}
{{- else if and $named $personas }}true{{ end -}}
{{- end -}}
{{- end }}

{{/* Seeds of a condition, in the study's order, as a JSON list of texts. Takes study and condition. */}}
{{- define "experiment.seedsOf" -}}
{{- $own := list -}}
{{- range .condition.seeds }}{{ $own = append $own (int64 .) }}{{ end -}}
{{- $found := list -}}
{{- range .study.seeds -}}
{{- if or (not $own) (has (int64 .) $own) }}{{ $found = append $found (toString (int64 .)) }}{{ end -}}
{{- end -}}
{{- /* A published adapter is one training run. */ -}}
{{- if and .condition.adapter (not $own) }}{{ $found = list (first $found) }}{{ end -}}
{{- toJson $found -}}
{{- end }}

{{/* Name of the base condition. */}}
{{- define "experiment.base" -}}
{{- $found := "" -}}
{{- range .conditions -}}
{{- if or (eq (.kind | default "") "base") (and (empty .kind) (empty (or .dataset .adapter))) }}{{ $found = .name }}{{ end -}}
{{- end -}}
{{- $found -}}
{{- end }}

{{/*
What a Job reads of the study, as YAML: a study that holds nothing else, so that what is not here can
change neither the Job nor its name. personaspace.study.load reads it; tests/test_chart_graph.py holds its
fingerprints to those of the whole study. Takes root and job.
*/}}
{{- define "experiment.part" -}}
{{- $study := .root.Values.experiment -}}
{{- $job := .job -}}
{{- $condition := $job.condition -}}
{{- $dataset := $condition.dataset | default "" -}}
{{- $hardware := dict -}}
{{- range $key, $value := $study.hardware | default dict }}{{ if not (or (kindIs "invalid" $value) (eq (toString $value) "auto")) }}{{ $_ := set $hardware $key $value }}{{ end }}{{ end -}}
{{- $whole := $condition.of | default $condition.name -}}
{{- $stages := list -}}
{{- range $node := concat $job.needs $job.nodes }}{{ $stages = append $stages (index (splitList ":" $node) 0) }}{{ end -}}
{{- $part := dict "part" (dict "condition" $condition.name "stages" $stages) "name" $study.name "model" $study.model -}}
{{- with $hardware }}{{ $_ := set $part "hardware" . }}{{ end -}}
{{- if $dataset -}}
{{- with index ($study.datasets | default dict) $dataset }}{{ $_ := set $part "datasets" (dict $dataset .) }}{{ end -}}
{{- /* A run keeps all doses, and each is itself alone: another one more changes no other's Job. */ -}}
{{- $training := omit $study.training "doses" "doses_in" -}}
{{- if hasKey $condition "of" -}}
{{- $_ := set $training "doses" (list (int64 $condition.step)) -}}
{{- $_ := set $training "doses_in" $study.training.doses_in -}}
{{- else if and $study.training.doses (has $job.stage (list "train" "condition")) -}}
{{- $_ := set $training "doses" $study.training.doses -}}
{{- end -}}
{{- $_ := set $part "training" $training -}}
{{- end -}}
{{- $own := set (omit $condition "label" "cosine_anchor" "seeds" "of" "step") "name" $whole -}}
{{- if not (has $job.stage (list "train" "couple" "condition")) }}{{ $own = omit $own "gpus" }}{{ end -}}
{{- $conditions := list $own -}}
{{- $first := include "experiment.coupledFirst" $study -}}
{{- $base := include "experiment.base" $study -}}
{{- if and (eq $job.stage "train") (not $first) -}}
{{- range $persona := $study.personas -}}
{{- if eq $persona.name ($condition.persona | default "") }}{{ $_ := set $part "personas" (list $persona) }}{{ end -}}
{{- end -}}
{{- else -}}
{{- $_ := set $part "personas" $study.personas -}}
{{- $_ := set $part "generation" $study.generation -}}
{{- $_ := set $part "analysis" (pick $study.analysis "assistant") -}}
{{- if has "steer" $stages -}}
{{- $_ := set $part "analysis" (pick $study.analysis "assistant" "method" "layer") -}}
{{- $_ := set $part "steering" (omit $study.steering "conditions") -}}
{{- end -}}
{{- if has "extract" $stages -}}
{{- $_ := set $part "extraction" $study.extraction -}}
{{- $_ := set $part "evaluation" (pick $study.evaluation "personas") -}}
{{- end -}}
{{- if has "couple" $stages }}{{ $_ := set $part "coupling" $study.coupling }}{{ end -}}
{{- if has "evaluate" $stages }}{{ $_ := set $part "evaluation" $study.evaluation }}{{ end -}}
{{- if has "judge" $stages }}{{ $_ := set $part "judge" $study.judge }}{{ end -}}
{{- if has "logodds" $stages }}{{ $_ := set $part "log_odds" $study.log_odds }}{{ end -}}
{{- /* Base is also asked as each persona that others trained under, and everyone is tested as these. */ -}}
{{- /* Coupled before fine-tuning, every Job reads what base's coupling does. */ -}}
{{- if or (has "evaluate" $stages) (and (has "extract" $stages) (not (or $dataset $condition.adapter))) $first -}}
{{- $conditions = list -}}
{{- range $other := $study.conditions -}}
{{- $seen := pick $other "name" "persona" "kind" -}}
{{- if not $seen.kind }}{{ $_ := set $seen "kind" (ternary "base" "em" (empty (or $other.dataset $other.adapter))) }}{{ end -}}
{{- $conditions = append $conditions (ternary $own $seen (eq $other.name $whole)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $_ := set $part "conditions" $conditions -}}
{{- $reruns := list -}}
{{- range $rerun := $study.rerun -}}
{{- $of := or (empty $rerun.condition) (eq $rerun.condition $condition.name) (and $first (eq $rerun.stage "couple") (eq $rerun.condition $base)) (and (eq $rerun.stage "train") (eq $rerun.condition $whole)) -}}
{{- $seed := or (kindIs "invalid" $rerun.seed) (eq (int64 ($rerun.seed | default 0)) (int64 $job.seed)) -}}
{{- if and $of $seed (has $rerun.stage $stages) }}{{ $reruns = append $reruns $rerun }}{{ end -}}
{{- end -}}
{{- with $reruns }}{{ $_ := set $part "rerun" . }}{{ end -}}
{{- with $study.substitutes }}{{ $_ := set $part "substitutes" . }}{{ end -}}
{{- with $study.tracking }}{{ $_ := set $part "tracking" . }}{{ end -}}
{{- toYaml $part -}}
{{- end }}
