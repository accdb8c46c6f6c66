package convert

// firstPooling keeps the first head of the owner itself.
type firstPooling struct{}

func (firstPooling) pool(dst []float32, g group, from heads) error {
	x, _, err := from(g.layers[0])
	if err != nil {
		return err
	}
	copy(dst, x[g.head*len(dst):])
	return nil
}

func (firstPooling) shares(g group) []share {
	return []share{{g.layers[0], []int{g.head}, 1}}
}
