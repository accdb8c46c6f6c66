package measure

// greatest finds the greatest n that fits, to within a 1024th of it, given that
// all below one that fits fit too. known is one that fits, or 0; guess is where
// the search begins.
func greatest(known, guess int, fits func(n int) (bool, error)) (int, error) {
	low, high := known, 0 // high: the least that is known not to fit, 0: none
	next := max(guess, known+1)
	step := max(1, guess>>10)
	fitted := false
	for high == 0 || high-low > max(1, low>>10) {
		ok, err := fits(next)
		if err != nil {
			return 0, err
		}
		if ok {
			low, fitted = next, true
		} else {
			high = next
		}
		switch {
		case high == 0:
			next = low + step
			step *= 2
		case !fitted:
			next = max(low+1, high-step)
			step *= 2
		default:
			next = low + (high-low)/2
		}
	}
	return low, nil
}
