package eval

import "mlkv/internal/ui"

// sets reads the documents of the tasks.
func (o Options) sets() ([]Set, error) {
	if o.Limit < 0 {
		return nil, ui.Usagef("limit: expected 0 or more, found %d", o.Limit)
	}
	if o.Shots.Count < 0 {
		return nil, ui.Usagef("shots: expected 0 or more, found %d", o.Shots.Count)
	}
	var names []string
	for _, name := range o.Tasks {
		if name != HeldoutTask {
			names = append(names, name)
		} else if len(o.Heldout) == 0 {
			return nil, ui.Usagef("task heldout: no text; pass --heldout or set eval.heldout")
		}
	}
	sets, errs := make([]Set, len(names)), make([]error, len(names))
	each(len(names), func(i int) { sets[i], errs[i] = o.set(names[i]) })
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	if len(sets) == 0 && len(o.Heldout) == 0 {
		return nil, ui.Usagef("eval: no task given")
	}
	return sets, nil
}

// set reads the documents of a task and puts examples before their prompts.
func (o Options) set(name string) (Set, error) {
	set, err := o.documents(name)
	if err != nil {
		return set, err
	}
	if o.Limit > 0 {
		set.Documents = set.Documents[:min(o.Limit, len(set.Documents))]
	}
	set.Shots = o.Shots
	return set, o.Shots.prepend(set.Task, o.Data, set.Documents)
}

// documents reads those of a task.
func (o Options) documents(name string) (Set, error) {
	if name == TextTask {
		if len(o.Text) == 0 {
			return Set{}, ui.Usagef("task text: no file; pass --text or set eval.text")
		}
		return textSet(o.Text)
	}
	task, err := LookupTask(name)
	if err != nil {
		return Set{}, err
	}
	file, err := task.Find(o.Data)
	if err != nil {
		return Set{}, err
	}
	docs, err := task.Read(file)
	return Set{Task: task, File: file, Documents: docs, Original: len(docs)}, err
}
