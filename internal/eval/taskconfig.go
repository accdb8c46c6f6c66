package eval

// taskConfig lays out a task's configuration as the harness writes it into
// result files.
func taskConfig(name string, head []Field, decontamination string, kind Kind, version float64, metrics ...any) Object {
	c := append(Object{{"task", name}}, head...)
	return append(c, Object{
		{"description", ""},
		{"target_delimiter", " "},
		{"fewshot_delimiter", "\n\n"},
		{"metric_list", metrics},
		{"output_type", string(kind)},
		{"repeats", 1},
		{"should_decontaminate", true},
		{"doc_to_decontamination_query", decontamination},
		{"metadata", Object{{"version", version}}},
	}...)
}

// listMean is the harness's entry for a metric that is averaged.
func listMean(name string) Object {
	return Object{{"metric", name}, {"aggregation", "mean"}, {"higher_is_better", true}}
}
