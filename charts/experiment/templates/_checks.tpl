{{/*
What the values' schema cannot say: mistakes that would fail every Job of the study, or two Jobs of one
name. The rest of personaspace.validation needs the files, and is the Jobs'.
*/}}
{{- define "experiment.checks" -}}
{{- $study := .Values.experiment -}}
{{- $wrong := list -}}
{{- $conditions := list -}}
{{- $personas := list -}}
{{- $seeds := list -}}
{{- range $index, $persona := $study.personas -}}
{{- if has $persona.name $personas }}{{ $wrong = append $wrong (printf "personas[%d].name: %q is already the name of another" $index $persona.name) }}{{ end -}}
{{- $personas = append $personas $persona.name -}}
{{- end -}}
{{- range $index, $condition := $study.conditions -}}
{{- if has $condition.name $conditions }}{{ $wrong = append $wrong (printf "conditions[%d].name: %q is already the name of another" $index $condition.name) }}{{ end -}}
{{- $conditions = append $conditions $condition.name -}}
{{- with $condition.persona -}}
{{- if not (has . $personas) }}{{ $wrong = append $wrong (printf "conditions[%d].persona: unknown persona %q" $index .) }}{{ end -}}
{{- end -}}
{{- if and $condition.dataset $study.datasets -}}
{{- if not (hasKey $study.datasets $condition.dataset) }}{{ $wrong = append $wrong (printf "conditions[%d].dataset: unknown dataset %q" $index $condition.dataset) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- range $index, $seed := $study.seeds -}}
{{- if has (int64 $seed) $seeds }}{{ $wrong = append $wrong (printf "seeds[%d]: %d is listed twice" $index (int64 $seed)) }}{{ end -}}
{{- $seeds = append $seeds (int64 $seed) -}}
{{- end -}}
{{- range $index, $rerun := $study.rerun -}}
{{- $where := printf "rerun[%d]" $index -}}
{{- $seeded := not (kindIs "invalid" $rerun.seed) -}}
{{- if and (eq $rerun.stage "aggregate") (or $rerun.condition $seeded) -}}
{{- $wrong = append $wrong (printf "%s.stage: aggregate is of the whole study: leave out condition and seed" $where) -}}
{{- else -}}
{{- with $rerun.condition -}}
{{- if not (has . $conditions) }}{{ $wrong = append $wrong (printf "%s.condition: unknown condition %q" $where .) }}{{ end -}}
{{- end -}}
{{- if $seeded -}}
{{- if not (has (int64 $rerun.seed) $seeds) }}{{ $wrong = append $wrong (printf "%s.seed: %d is not among the seeds" $where (int64 $rerun.seed)) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $wrong }}{{ fail (printf "experiment.%s" (join "; experiment." $wrong)) }}{{ end -}}
{{- end }}
