package ui

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// FormatBytes writes a number of bytes with a binary unit and three
// significant digits: "512 B", "1.50 KiB", "24.1 GiB".
func FormatBytes(n int64) string {
	return scaled(float64(n), 1024, []string{" B", " KiB", " MiB", " GiB", " TiB", " PiB"})
}

// ParseBytes reads a number of bytes, with a binary or decimal unit or without:
// "1073741824", "1GiB", "1.5 GB".
func ParseBytes(text string) (int64, error) {
	number := strings.TrimRight(text, "BKMGTiB ")
	unit := strings.TrimSpace(text[len(number):])
	size, ok := byteUnits[unit]
	x, err := strconv.ParseFloat(number, 64)
	if err != nil || !ok || !(x >= 0) || x*size >= math.MaxInt64 {
		return 0, fmt.Errorf("expected a number of bytes such as 40GiB, found %q", text)
	}
	return int64(math.Round(x * size)), nil
}

var byteUnits = map[string]float64{
	"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
	"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
}

// FormatCount writes a count with a decimal suffix and three significant
// digits: "999", "32.8k", "162M", "5.03G".
func FormatCount(n int64) string { return FormatRate(float64(n)) }

// FormatRate is FormatCount for a number that need not be whole, such as a
// rate: "0.25", "32.8k".
func FormatRate(x float64) string {
	return scaled(x, 1000, []string{"", "k", "M", "G", "T", "P"})
}

// scaled divides x by base until three digits before the point suffice. Values
// below the first step keep no needless zeros.
func scaled(x, base float64, units []string) string {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return "-"
	}
	i := 0
	for math.Abs(x) >= 999.5 && i < len(units)-1 {
		x /= base
		i++
	}
	if i == 0 {
		return strconv.FormatFloat(x, 'g', 3, 64) + units[0]
	}
	decimals := 2
	for limit := 9.995; math.Abs(x) >= limit && decimals > 0; limit *= 10 {
		decimals--
	}
	return strconv.FormatFloat(x, 'f', decimals, 64) + units[i]
}

// FormatInt writes every digit of a whole number, in groups of three:
// "162,322,944".
func FormatInt(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// FormatDuration writes a duration with its two largest units: "3d04h",
// "2h05m", "3m10s", "12.3s", "450ms".
func FormatDuration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + FormatDuration(-d)
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d.Round(100*time.Millisecond) < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	d = d.Round(time.Second)
	days, hours, minutes, seconds := d/(24*time.Hour), d/time.Hour%24, d/time.Minute%60, d/time.Second%60
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%02dh", days, hours)
	case hours > 0:
		return fmt.Sprintf("%dh%02dm", hours, minutes)
	default:
		return fmt.Sprintf("%dm%02ds", minutes, seconds)
	}
}
