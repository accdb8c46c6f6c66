package data

import (
	"math"
	"slices"
	"sort"

	"mlkv/internal/ui"
)

// order maps a position to a row. The rows of an epoch lie on a line, set after
// set, and are visited in a permuted order; where sets have weights, a set's
// stretch of the line is longer or shorter than the set, and its places walk
// through the set's rows, in an order of their own, from epoch to epoch.
type order struct {
	starts  []int64 // first row of each shard when all are counted through
	rows    int64   // of an epoch
	shuffle bool
	seed    int64
	sets    []setOrder // nil without weights

	epoch int64 // of perm
	perm  permutation
}

// setOrder is the rows of one set.
type setOrder struct {
	shards []int   // indices of the set's shards
	starts []int64 // first row of each of them within the set
	rows   int64   // of the set
	from   int64   // where its stretch of the epoch begins
	share  int64   // length of the stretch
}

func newOrder(shards []*Shard, o LoaderOptions) (order, error) {
	r := order{shuffle: o.Shuffle, seed: o.Seed, epoch: -1}
	for _, s := range shards {
		r.starts = append(r.starts, r.rows)
		r.rows += s.Rows
	}
	if o.Weights == nil {
		return r, nil
	}
	return r, r.weigh(shards, o.Weights)
}

// weigh divides the rows of an epoch among the sets.
func (r *order) weigh(shards []*Shard, weights map[string]float64) error {
	bySet := map[string]*setOrder{}
	for i, s := range shards {
		set := bySet[s.Set]
		if set == nil {
			set = &setOrder{}
			bySet[s.Set] = set
		}
		set.shards = append(set.shards, i)
		set.starts = append(set.starts, set.rows)
		set.rows += s.Rows
	}
	names := make([]string, 0, len(weights))
	total := 0.0
	for name, w := range weights {
		if bySet[name] == nil {
			return ui.Usagef("loader: weights: no shard holds the set %q; expected %q (prepare with --split-sets keeps sets apart)", name, sortedKeys(bySet))
		}
		if !(w >= 0) || math.IsInf(w, 0) {
			return ui.Usagef("loader: weights: set %q: expected a number of at least 0, found %g", name, w)
		}
		names = append(names, name)
		total += w
	}
	if total <= 0 {
		return ui.Usagef("loader: weights: expected a positive one")
	}
	sort.Strings(names)
	// Each stretch ends at the rounded running share, so that they fill the epoch.
	from, sum := int64(0), 0.0
	for _, name := range names {
		sum += weights[name] / total
		end := int64(math.Round(sum * float64(r.rows)))
		if share := min(end, r.rows) - from; share > 0 {
			set := bySet[name]
			set.from, set.share = from, share
			r.sets = append(r.sets, *set)
			from += share
		}
	}
	r.rows = from
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// at is the row at a position, counted through all shards.
func (r *order) at(p Position) int64 {
	place := p.Row
	if r.shuffle {
		if r.epoch != p.Epoch {
			r.epoch, r.perm = p.Epoch, newPermutation(r.rows, r.seed, p.Epoch)
		}
		place = r.perm.at(place)
	}
	if r.sets == nil {
		return place
	}
	k := sort.Search(len(r.sets), func(k int) bool { return r.sets[k].from > place }) - 1
	set := &r.sets[k]
	step := p.Epoch*set.share + place - set.from // places of the set visited since the beginning
	row, pass := step%set.rows, step/set.rows
	if r.shuffle {
		perm := newPermutation(set.rows, r.seed^int64(k+1)<<32, pass)
		row = perm.at(row)
	}
	i := sort.Search(len(set.starts), func(i int) bool { return set.starts[i] > row }) - 1
	return r.starts[set.shards[i]] + row - set.starts[i]
}
