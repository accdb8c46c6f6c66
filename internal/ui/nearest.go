package ui

// Nearest returns the candidate with the smallest edit distance to word, and
// false where none is near enough to be what was meant.
func Nearest(word string, candidates []string) (string, bool) {
	best, found := "", false
	// A third of the letters may be wrong, and always one or two.
	limit := max(2, len(word)/3)
	for _, c := range candidates {
		if d := editDistance(word, c); d <= limit && (!found || d < editDistance(word, best)) {
			best, found = c, true
		}
	}
	return best, found
}

// DidYouMean is " (did you mean NEAREST?)", or nothing where no candidate is
// near: the end of a message about an unknown name.
func DidYouMean(word string, candidates []string) string {
	if n, ok := Nearest(word, candidates); ok {
		return " (did you mean " + n + "?)"
	}
	return ""
}

// editDistance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b (optimal string alignment).
func editDistance(a, b string) int {
	x, y := []rune(a), []rune(b)
	prev2 := make([]int, len(y)+1)
	prev := make([]int, len(y)+1)
	cur := make([]int, len(y)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(x); i++ {
		cur[0] = i
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(y)]
}
