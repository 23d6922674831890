"""Running a study as Jobs on Kubernetes: the chart's values, the conductor, what people ask."""
