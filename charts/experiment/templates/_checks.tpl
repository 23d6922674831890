{{/*
What the values' schema cannot say, in the words of personaspace.study.validate: tests/test_chart_checks.py
holds the two together. What needs files (data sets, questions, the model) is the conductor's to say,
before any stage has started.
*/}}
{{- define "experiment.checks" -}}
{{- $study := .Values.experiment -}}
{{- $defaults := .Files.Get "defaults.json" | fromJson -}}
{{- $wrong := concat (include "experiment.checks.conditions" (dict "study" $study "defaults" $defaults) | fromJsonArray) (include "experiment.checks.personas" (dict "study" $study "defaults" $defaults) | fromJsonArray) (include "experiment.checks.others" $study | fromJsonArray) (include "experiment.checks.elsewhere" (dict "study" $study "defaults" $defaults) | fromJsonArray) -}}
{{- if $wrong }}{{ fail (printf "experiment.%s" (join "; experiment." $wrong)) }}{{ end -}}
{{- $key := dig "key_env" "" ($study.judge | default dict) -}}
{{- if and $key (not .Values.judgeKey.existingSecret) -}}
{{- $settings := include "experiment.settings" (dict "root" . "stage" (ternary "condition" "judge" .Values.fuse)) | fromJson -}}
{{- $given := not (empty $settings.extraEnvFrom) -}}
{{- range $settings.extraEnv }}{{ if eq .name $key }}{{ $given = true }}{{ end }}{{ end -}}
{{- if not $given }}{{ fail (printf "judgeKey.existingSecret: name the secret that holds %s (experiment.judge.key_env)" $key) }}{{ end -}}
{{- end -}}
{{- if and $study.publish (not (or .Values.publishToken.existingSecret .Values.hubToken.existingSecret)) -}}
{{- $settings := include "experiment.settings" (dict "root" . "stage" "publish") | fromJson -}}
{{- $given := not (empty $settings.extraEnvFrom) -}}
{{- range $settings.extraEnv }}{{ if eq .name "HF_TOKEN" }}{{ $given = true }}{{ end }}{{ end -}}
{{- if not $given }}{{ fail "publishToken.existingSecret: name the secret with a token that may write to the Hub (experiment.publish)" }}{{ end -}}
{{- end -}}
{{- with include "experiment.checks.pods" . | fromJsonArray }}{{ fail (join "; " .) }}{{ end -}}
{{- if not (or .Values.serviceAccount.create (and .Values.serviceAccount.name .Values.serviceAccount.conductorName)) -}}
{{- fail "serviceAccount: create is false, so name and conductorName must name accounts that are there (k8s/conductor-rights.yaml)" -}}
{{- end -}}
{{- if and .Values.livePage.enabled (not (or .Values.serviceAccount.create .Values.serviceAccount.pageName)) -}}
{{- fail "serviceAccount: create is false, so pageName must name an account that is there (k8s/conductor-rights.yaml)" -}}
{{- end -}}
{{- if not (or .Values.store.url .Values.store.existingSecret .Values.seaweedfs.enabled) -}}
{{- fail "store.url: name the bucket, or in store.existingSecret the secret that does (PERSONASPACE_STORE)" -}}
{{- end -}}
{{- end }}

{{/* Conditions, their data sets, and recipes. Takes study and defaults, gives a JSON list of complaints. */}}
{{- define "experiment.checks.conditions" -}}
{{- $study := .study -}}
{{- $wrong := list -}}
{{- $names := list -}}
{{- $bases := 0 -}}
{{- $untrained := 0 -}}
{{- $datasets := ternary (keys ($study.datasets | default dict)) .defaults.datasets (hasKey $study "datasets") -}}
{{- range $index, $condition := $study.conditions -}}
{{- $where := printf "conditions[%d]" $index -}}
{{- if has $condition.name $names }}{{ $wrong = append $wrong (printf "%s.name: %q is already the name of another" $where $condition.name) }}{{ end -}}
{{- $names = append $names $condition.name -}}
{{- $kind := $condition.kind | default (ternary "base" "em" (empty (or $condition.dataset $condition.adapter))) -}}
{{- with $condition.adapter -}}
{{- if $condition.dataset }}{{ $wrong = append $wrong (printf "%s.adapter: give either dataset or adapter" $where) }}{{ end -}}
{{- if gt (len ($condition.seeds | default list)) 1 }}{{ $wrong = append $wrong (printf "%s.seeds: a published adapter is one training run: name one seed" $where) }}{{ end -}}
{{- if eq $study.coupling.order "before" }}{{ $wrong = append $wrong (printf "%s.adapter: was not trained over a coupled base, as coupling.order: before has it" $where) }}{{ end -}}
{{- end -}}
{{- with $condition.dataset -}}
{{- if not (has . $datasets) }}{{ $wrong = append $wrong (printf "%s.dataset: unknown dataset %q" $where .) }}{{ end -}}
{{- end -}}
{{- if or $condition.dataset $condition.adapter -}}
{{- if eq $kind "base" }}{{ $wrong = append $wrong (printf "%s.%s: the base condition is not trained" $where (ternary "dataset" "adapter" (not (empty $condition.dataset)))) }}{{ end -}}
{{- else -}}
{{- $untrained = add1 $untrained -}}
{{- if ne $kind "base" }}{{ $wrong = append $wrong (printf "%s.kind: a condition without dataset or adapter is the base" $where) }}
{{- else if $bases }}{{ $wrong = append $wrong (printf "%s.kind: there is already a base condition" $where) }}{{ end -}}
{{- end -}}
{{- if eq $kind "base" }}{{ $bases = add1 $bases }}{{ end -}}
{{- end -}}
{{- if not (or $bases $untrained) }}{{ $wrong = append $wrong "conditions: one condition without dataset or adapter is needed as the base" }}{{ end -}}
{{- range $name, $dataset := $study.datasets -}}
{{- $where := printf "datasets.%s" $name -}}
{{- if eq (empty $dataset.path) (empty $dataset.hub) }}{{ $wrong = append $wrong (printf "%s: give either path or hub" $where) }}
{{- else if and (hasPrefix "https://" ($dataset.path | default "")) (not $dataset.sha256) }}{{ $wrong = append $wrong (printf "%s: https:// needs a sha256, so that a rerun reads the same rows" $where) }}
{{- else if and $dataset.hub (not $dataset.revision) }}{{ $wrong = append $wrong (printf "%s: hub needs a revision, so that a rerun reads the same rows" $where) }}
{{- else if and $dataset.hub $dataset.sha256 }}{{ $wrong = append $wrong (printf "%s: sha256 is for files; a hub data set is pinned by its revision" $where) }}{{ end -}}
{{- end -}}
{{- range $where, $recipe := dict "training" $study.training "coupling.recipe" $study.coupling.recipe -}}
{{- if and $recipe.row_tokens (lt (int64 ($recipe.row_tokens | default 0)) (int64 $recipe.max_tokens)) }}{{ $wrong = append $wrong (printf "%s.row_tokens: is less than max_tokens (%d)" $where (int64 $recipe.max_tokens)) }}{{ end -}}
{{- end -}}
{{- range $index, $condition := $study.conditions -}}
{{- with $condition.training -}}
{{- $where := printf "conditions[%d].training" $index -}}
{{- if not $condition.dataset }}{{ $wrong = append $wrong (printf "%s: %s %s and is not trained here" $where $condition.name (ternary "has no data set" "has an adapter" (empty $condition.adapter))) }}{{ end -}}
{{- $rows := $study.training.row_tokens -}}
{{- if and $rows .max_tokens (lt (int64 $rows) (int64 .max_tokens)) }}{{ $wrong = append $wrong (printf "%s.max_tokens: is more than training.row_tokens (%d)" $where (int64 $rows)) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $wrong = concat $wrong (include "experiment.checks.doses" (dict "study" $study "names" $names) | fromJsonArray) -}}
{{- toJson $wrong -}}
{{- end }}

{{/* Stores to take from, which pods must reach, and steering's controls. Takes study and defaults, gives a JSON list of complaints. */}}
{{- define "experiment.checks.elsewhere" -}}
{{- $wrong := list -}}
{{- range $index, $url := .study.substitutes -}}
{{- if not (regexMatch "^(s3://|hf://|file:///|/)" $url) }}{{ $wrong = append $wrong (printf "substitutes[%d]: %q is no store that pods reach: give s3://bucket/prefix, hf://owner/name, or a folder of a volume" $index $url) }}{{ end -}}
{{- end -}}
{{- with .study.publish -}}
{{- if regexMatch "--|[.][.]|[.]git$" .repo }}{{ $wrong = append $wrong (printf "publish.repo: %s: not a name of a repository; it looks like owner/name" .repo) }}{{ end -}}
{{- $seen := list -}}
{{- range $index, $kind := .include -}}
{{- if has $kind $seen }}{{ $wrong = append $wrong (printf "publish.include[%d]: %q is listed twice" $index $kind) }}{{ end -}}
{{- $seen = append $seen $kind -}}
{{- end -}}
{{- with .collection -}}
{{- if and (contains "/" .) (not (regexMatch "^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*$" .)) }}{{ $wrong = append $wrong (printf "publish.collection: %s: not an address of a collection, which looks like owner/slug (a title has no slash)" .) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with .study.steering -}}
{{- $given := merge (dict) . $.defaults.steering -}}
{{- if gt (int64 $given.answered_controls) (int64 $given.controls) }}{{ $wrong = append $wrong (printf "steering.answered_controls: is more than steering.controls (%d)" (int64 $given.controls)) }}{{ end -}}
{{- end -}}
{{- toJson $wrong -}}
{{- end }}

{{/* Doses of the training. Takes study and names (of conditions), gives a JSON list of complaints. */}}
{{- define "experiment.checks.doses" -}}
{{- $study := .study -}}
{{- $wrong := list -}}
{{- $doses := list -}}
{{- range $index, $step := $study.training.doses -}}
{{- $where := printf "training.doses[%d]" $index -}}
{{- $beyond := "" -}}
{{- range $condition := $study.conditions -}}
{{- $own := $condition.training | default dict -}}
{{- $most := ternary (get $own "max_steps") $study.training.max_steps (hasKey $own "max_steps") -}}
{{- if and $condition.dataset $most (gt (int64 $step) (int64 ($most | default 0))) (not $beyond) }}{{ $beyond = printf "%d is beyond the %d steps of %s" (int64 $step) (int64 $most) $condition.name }}{{ end -}}
{{- end -}}
{{- if has (int64 $step) $doses }}{{ $wrong = append $wrong (printf "%s: %d is listed twice" $where (int64 $step)) }}
{{- else if and $doses (lt (int64 $step) (last $doses)) }}{{ $wrong = append $wrong (printf "%s: %d comes after %d: name them in ascending order" $where (int64 $step) (last $doses)) }}
{{- else if $beyond }}{{ $wrong = append $wrong (printf "%s: %s" $where $beyond) }}{{ end -}}
{{- $doses = append $doses (int64 $step) -}}
{{- end -}}
{{- $seen := list -}}
{{- range $index, $stage := $study.training.doses_in -}}
{{- if has $stage $seen }}{{ $wrong = append $wrong (printf "training.doses_in[%d]: %q is listed twice" $index $stage) }}{{ end -}}
{{- $seen = append $seen $stage -}}
{{- end -}}
{{- $trained := list -}}
{{- range $study.conditions }}{{ if .dataset }}{{ $trained = append $trained .name }}{{ end }}{{ end -}}
{{- if and $doses (not $trained) }}{{ $wrong = append $wrong "training.doses: no condition is trained here" }}{{ end -}}
{{- $names := .names -}}
{{- range $dose := include "experiment.doses" $study | fromJsonArray -}}
{{- range $index, $step := $doses -}}
{{- if eq $step (int64 $dose.step) -}}
{{- $where := printf "training.doses[%d]" $index -}}
{{- if has $dose.name $names }}{{ $wrong = append $wrong (printf "%s: %q, as the dose of %s is called, is the name of a condition" $where $dose.name $dose.of) }}
{{- else if gt (len $dose.name) 63 }}{{ $wrong = append $wrong (printf "%s: %q, as the dose is called, has more than 63 characters: give %q a shorter name" $where $dose.name $dose.of) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $wrong -}}
{{- end }}

{{/* Whatever names a persona. Takes study and defaults, gives a JSON list of complaints. */}}
{{- define "experiment.checks.personas" -}}
{{- $study := .study -}}
{{- $wrong := list -}}
{{- $known := list -}}
{{- range $index, $persona := $study.personas -}}
{{- if and (hasKey $persona "prompts") (kindIs "invalid" $persona.prompts) }}{{ $wrong = append $wrong (printf "personas[%d].prompts: has nothing under it: list wordings to have it, or take the line out to go without" $index) }}{{ end -}}
{{- if has $persona.name $known }}{{ $wrong = append $wrong (printf "personas[%d].name: %q is already the name of another" $index $persona.name) }}{{ end -}}
{{- $known = append $known $persona.name -}}
{{- end -}}
{{- $grid := $study.evaluation.personas -}}
{{- if not $grid -}}
{{- $grid = .defaults.grid -}}
{{- range .defaults.grid }}{{ if not (has . $known) }}{{ $grid = $known }}{{ end }}{{ end -}}
{{- end -}}
{{- $extracted := $study.extraction.personas | default $grid -}}
{{- $source := $study.coupling.source -}}
{{- $assistant := $study.analysis.assistant -}}
{{- $named := dict "coupling.source" $source "analysis.assistant" $assistant -}}
{{- range $index, $condition := $study.conditions -}}
{{- with $condition.persona }}{{ $_ := set $named (printf "conditions[%d].persona" $index) . }}{{ end -}}
{{- end -}}
{{- range $section, $names := dict "extraction.personas" $study.extraction.personas "evaluation.personas" $study.evaluation.personas "coupling.negatives" $study.coupling.negatives "judge.personas" (dig "personas" list ($study.judge | default dict)) -}}
{{- $seen := list -}}
{{- range $index, $name := $names -}}
{{- $where := printf "%s[%d]" $section $index -}}
{{- $_ := set $named $where $name -}}
{{- if has $name $seen }}{{ $wrong = append $wrong (printf "%s: %q is listed twice" $where $name) }}{{ end -}}
{{- if and (eq $section "coupling.negatives") (eq $name $source) }}{{ $wrong = append $wrong (printf "%s: %q is the source persona" $where $name) }}{{ end -}}
{{- $seen = append $seen $name -}}
{{- end -}}
{{- end -}}
{{- range $where, $name := $named -}}
{{- if not (has $name $known) }}{{ $wrong = append $wrong (printf "%s: unknown persona %q" $where $name) }}{{ end -}}
{{- end -}}
{{- if and (has $assistant $known) (not (has $assistant $extracted)) }}{{ $wrong = append $wrong "analysis.assistant: is not among the extracted personas" }}{{ end -}}
{{- if and (has $source $known) (not (has $source $grid)) }}{{ $wrong = append $wrong (printf "evaluation.personas: must hold the source persona %q" $source) }}{{ end -}}
{{- toJson $wrong -}}
{{- end }}

{{/* Seeds, layers, methods, axis, reruns. Takes the study, gives a JSON list of complaints. */}}
{{- define "experiment.checks.others" -}}
{{- $study := . -}}
{{- $wrong := list -}}
{{- $seeds := list -}}
{{- range $index, $seed := $study.seeds -}}
{{- if has (int64 $seed) $seeds }}{{ $wrong = append $wrong (printf "seeds[%d]: %d is listed twice" $index (int64 $seed)) }}{{ end -}}
{{- $seeds = append $seeds (int64 $seed) -}}
{{- end -}}
{{- $used := list -}}
{{- $tuned := list -}}
{{- range $index, $condition := $study.conditions -}}
{{- $mine := list -}}
{{- range $place, $seed := $condition.seeds -}}
{{- $where := printf "conditions[%d].seeds[%d]" $index $place -}}
{{- if has (int64 $seed) $mine }}{{ $wrong = append $wrong (printf "%s: %d is listed twice" $where (int64 $seed)) }}
{{- else if not (has (int64 $seed) $seeds) }}{{ $wrong = append $wrong (printf "%s: %d is not among the seeds of the study" $where (int64 $seed)) }}{{ end -}}
{{- $mine = append $mine (int64 $seed) -}}
{{- end -}}
{{- $mine = $mine | default (ternary (list (first $seeds)) $seeds (not (empty $condition.adapter))) -}}
{{- $used = concat $used $mine -}}
{{- if or $condition.dataset $condition.adapter }}{{ $tuned = concat $tuned $mine }}{{ end -}}
{{- end -}}
{{- range $index, $seed := $seeds -}}
{{- if not (has $seed $used) }}{{ $wrong = append $wrong (printf "seeds[%d]: no condition has a run with %d" $index $seed) }}{{ end -}}
{{- end -}}
{{- if include "experiment.coupledFirst" $study -}}
{{- range $index, $condition := $study.conditions -}}
{{- if and $condition.seeds (eq $condition.name (include "experiment.base" $study)) -}}
{{- $mine := list -}}
{{- range $condition.seeds }}{{ $mine = append $mine (int64 .) }}{{ end -}}
{{- $missing := list -}}
{{- range $seed := $seeds }}{{ if and (has $seed $tuned) (not (has $seed $mine)) }}{{ $missing = append $missing (toString $seed) }}{{ end }}{{ end -}}
{{- with $missing }}{{ $wrong = append $wrong (printf "conditions[%d].seeds: must hold %s: coupling.order: before couples base first, and others start from there" $index (join ", " .)) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if kindIs "slice" $study.extraction.layers -}}
{{- $layers := list -}}
{{- range $index, $layer := $study.extraction.layers -}}
{{- if has (int64 $layer) $layers }}{{ $wrong = append $wrong (printf "extraction.layers[%d]: %d is listed twice" $index (int64 $layer)) }}{{ end -}}
{{- $layers = append $layers (int64 $layer) -}}
{{- end -}}
{{- if not $layers }}{{ $wrong = append $wrong "extraction.layers: name at least one layer" }}{{ end -}}
{{- $headline := $study.analysis.layer -}}
{{- if not (or (kindIs "invalid" $headline) (has (int64 ($headline | default 0)) $layers)) }}{{ $wrong = append $wrong (printf "analysis.layer: %d is not extracted" (int64 $headline)) }}{{ end -}}
{{- end -}}
{{- range $name, $on := dict "judge" "name its model below it" "log_odds" "write {}" "steering" "write {}" -}}
{{- if and (hasKey $study $name) (kindIs "invalid" (get $study $name)) }}{{ $wrong = append $wrong (printf "%s: has nothing under it: %s to have it, or take the line out to go without" $name $on) }}{{ end -}}
{{- end -}}
{{- with $study.judge -}}
{{- if and .key_env (not .url) }}{{ $wrong = append $wrong "judge: key_env goes with url: a local judge needs no key" }}{{ end -}}
{{- with .url -}}
{{- if not (regexMatch `^https?://[^/?#\s]+([/?#]\S*)?$` .) }}{{ $wrong = append $wrong "judge.url: is not the address of a server (https://host/v1)" }}
{{- else if regexMatch `^https?://[^/?#]*@` . }}{{ $wrong = append $wrong "judge.url: holds a user name or password; name the key's variable in key_env" }}
{{- else if regexMatch `[?#]` . }}{{ $wrong = append $wrong "judge.url: ends in a ? or # part; give the address up to /v1 alone" }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if not (has $study.analysis.method $study.extraction.methods) }}{{ $wrong = append $wrong (printf "analysis.method: %q is not extracted" $study.analysis.method) }}{{ end -}}
{{- $conditions := dict -}}
{{- $em := list -}}
{{- range $condition := $study.conditions -}}
{{- $_ := set $conditions $condition.name (empty (or $condition.dataset $condition.adapter)) -}}
{{- if eq ($condition.kind | default (ternary "base" "em" (empty (or $condition.dataset $condition.adapter)))) "em" }}{{ $em = append $em $condition.name }}{{ end -}}
{{- end -}}
{{- with $study.steering -}}
{{- $whole := dict -}}
{{- range include "experiment.doses" $study | fromJsonArray }}{{ $_ := set $whole .name .of }}{{ end -}}
{{- range $index, $name := .conditions -}}
{{- if hasKey $whole $name }}{{ $wrong = append $wrong (printf "steering.conditions[%d]: %q is a dose, and vectors are of whole trainings: name %q" $index $name (get $whole $name)) }}
{{- else if not (hasKey $conditions $name) }}{{ $wrong = append $wrong (printf "steering.conditions[%d]: unknown condition %q" $index $name) }}{{ end -}}
{{- end -}}
{{- $personas := list "shift" -}}
{{- range $study.personas }}{{ $personas = append $personas .name }}{{ end -}}
{{- range $index, $name := .vectors -}}
{{- if not (has $name $personas) }}{{ $wrong = append $wrong (printf "steering.vectors[%d]: unknown vector %q: neither shift nor a persona" $index $name) }}{{ end -}}
{{- end -}}
{{- range $index, $seed := .seeds -}}
{{- if not (has (int64 $seed) $seeds) }}{{ $wrong = append $wrong (printf "steering.seeds[%d]: %d is not among the seeds of the study" $index (int64 $seed)) }}{{ end -}}
{{- end -}}
{{- $pushes := list -}}
{{- range .doses -}}
{{- $dose := float64 . -}}
{{- if eq $dose 0.0 }}{{ $wrong = append $wrong "steering.doses: 0 is the unsteered model, which is measured anyway" }}
{{- else if or (gt $dose 1000000.0) (lt $dose -1000000.0) (and (lt $dose 0.000001) (gt $dose -0.000001)) }}{{ $wrong = append $wrong (printf "steering.doses: %g is not between 0.000001 and 1,000,000 in size" $dose) }}
{{- else if has $dose $pushes }}{{ $wrong = append $wrong (printf "steering.doses: %g is listed twice" $dose) }}{{ end -}}
{{- $pushes = append $pushes $dose -}}
{{- end -}}
{{- end -}}
{{- range include "experiment.doses" $study | fromJsonArray }}{{ $_ := set $conditions .name false }}{{ end -}}
{{- with $study.analysis.axis -}}
{{- if not (has . $em) }}{{ $wrong = append $wrong (printf "analysis.axis: unknown em condition %q" .) }}{{ end -}}
{{- end -}}
{{- range $index, $rerun := $study.rerun -}}
{{- $where := printf "rerun[%d]" $index -}}
{{- $seeded := not (kindIs "invalid" $rerun.seed) -}}
{{- if and $rerun.condition (not (hasKey $conditions $rerun.condition)) -}}
{{- $wrong = append $wrong (printf "%s.condition: unknown condition %q" $where $rerun.condition) -}}
{{- else if and (has $rerun.stage (list "aggregate" "publish")) (or $rerun.condition $seeded) -}}
{{- $wrong = append $wrong (printf "%s.stage: %s is of the whole study: leave out condition and seed" $where $rerun.stage) -}}
{{- else if and $rerun.condition (eq $rerun.stage "train") (get $conditions $rerun.condition) -}}
{{- $wrong = append $wrong (printf "%s.stage: %s has no data set and is not trained" $where $rerun.condition) -}}
{{- end -}}
{{- if $seeded -}}
{{- if not (has (int64 $rerun.seed) $seeds) }}{{ $wrong = append $wrong (printf "%s.seed: %d is not among the seeds" $where (int64 $rerun.seed)) }}{{ end -}}
{{- range $condition := $study.conditions -}}
{{- if and (eq $condition.name ($rerun.condition | default "")) (has (int64 $rerun.seed) $seeds) (not (has (toString (int64 $rerun.seed)) (include "experiment.seedsOf" (dict "study" $study "condition" $condition) | fromJsonArray))) -}}
{{- $wrong = append $wrong (printf "%s.seed: %d is not among the seeds of %s" $where (int64 $rerun.seed) $condition.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $wrong -}}
{{- end }}
