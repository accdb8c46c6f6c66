package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"html"
	"image"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"mlkv/internal/ui"
)

func fixturePage(t *testing.T) string {
	t.Helper()
	rows := collect(t, writeFixture(t), put(t, t.TempDir(), "measurements.json", measurements("2026-01-02T00:00:00Z")))
	dir := filepath.Join(t.TempDir(), "new", "page")
	files, err := WritePage(t.Context(), rows, PaperTasks, dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, pageHTML); len(files) != 2 || files[1] != want {
		t.Fatalf("pages %q", files)
	}
	if _, err := WritePage(t.Context(), rows, PaperTasks, dir, false); ui.ExitCode(err) != ui.ExitUsage {
		t.Errorf("overwriting without force: %v", err)
	}
	return dir
}

// TestPage: the HTML refers to nothing outside itself, and the Markdown only to
// files beside it.
func TestPage(t *testing.T) {
	dir := fixturePage(t)
	page := read(t, dir, pageHTML)
	for _, ref := range regexp.MustCompile(`(?:src|href)="([^"]{0,40})`).FindAllStringSubmatch(page, -1) {
		if !strings.HasPrefix(ref[1], "data:image/svg") {
			t.Errorf("the page refers to %q", ref[1])
		}
	}
	if n := strings.Count(page, "<figure id="); n != 8 {
		t.Errorf("%d figures, want 8", n)
	}
	markdown := read(t, dir, pageMarkdown)
	links := regexp.MustCompile(`!\[[^\]]+\]\(([^)]+)\)`).FindAllStringSubmatch(markdown, -1)
	for _, l := range links {
		if _, err := os.Stat(filepath.Join(dir, l[1])); err != nil {
			t.Error(err)
		}
	}
	if len(links) != 8 || !strings.Contains(markdown, "| MLKV-2 | 2 x 1") {
		t.Errorf("%d figures in\n%s", len(links), markdown)
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// probe is put into the page's head: it notes errors, and at the end what the
// page shows, then sorts by two columns.
const probe = `<script>
const seen = {errors: [], images: [], first: [], texts: ""};
addEventListener("error", e => seen.errors.push(String(e.message || e.target.src || e.target)), true);
addEventListener("securitypolicyviolation", e => seen.errors.push(e.violatedDirective + " " + e.blockedURI));
console.error = console.warn = (...a) => seen.errors.push(a.join(" "));
addEventListener("load", () => {
  for (const i of document.images) seen.images.push({alt: i.alt, natural: i.naturalWidth * i.naturalHeight, shown: i.clientWidth});
  const table = document.querySelector("table"), heads = table.tHead.rows[0].cells;
  const top = () => seen.first.push(table.tBodies[0].rows[0].cells[0].innerText);
  seen.texts = table.innerText;
  seen.overflow = document.documentElement.scrollWidth - innerWidth;
  top();
  const parameters = [...heads].findIndex(h => h.innerText.startsWith("KV bytes"));
  heads[parameters].click(); heads[parameters].click(); top();
  heads[0].dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"})); top();
  const out = document.createElement("pre");
  out.id = "probe"; out.textContent = JSON.stringify(seen);
  document.body.append(out);
});
</script>`

// TestPageInBrowser looks at the page as a reader does. It needs Chromium.
func TestPageInBrowser(t *testing.T) {
	browser := findBrowser(t)
	dir := fixturePage(t)
	whole := read(t, dir, pageHTML)
	probed := put(t, dir, "probed.html", strings.Replace(whole, "<title>", probe+"<title>", 1))
	dom, _ := browse(t, browser, "--dump-dom", probed)
	m := regexp.MustCompile(`<pre id="probe">(.*?)</pre>`).FindStringSubmatch(dom)
	if m == nil {
		t.Fatalf("the page did not load; its document is %.2000s", dom)
	}
	var seen struct {
		Errors []string
		Images []struct {
			Alt            string
			Natural, Shown int
		}
		First    []string
		Texts    string
		Overflow int
	}
	if err := json.Unmarshal([]byte(html.UnescapeString(m[1])), &seen); err != nil {
		t.Fatal(err)
	}
	if len(seen.Errors) > 0 {
		t.Errorf("errors: %q", seen.Errors)
	}
	if len(seen.Images) != 8 {
		t.Errorf("%d images, want 8", len(seen.Images))
	}
	for _, i := range seen.Images {
		if i.Natural == 0 || i.Shown < 300 {
			t.Errorf("image %q: natural size %d, %d pixels wide", i.Alt, i.Natural, i.Shown)
		}
	}
	for _, want := range []string{"KV bytes/token", "MLKV-2", "2 x 1", "longest context", "3.600"} {
		if !strings.Contains(seen.Texts, want) {
			t.Errorf("the table lacks %q:\n%s", want, seen.Texts)
		}
	}
	if got := strings.Join(seen.First, ", "); got != "MHA-16, MLKV-2, MHA-16" {
		t.Errorf("first rows as written, by rising cache, by name: %s", got)
	}
	if seen.Overflow > 0 {
		t.Errorf("the page is %d pixels wider than its window", seen.Overflow)
	}

	for _, scheme := range []string{"light", "dark"} {
		shot := filepath.Join(dir, scheme+".png")
		args := []string{"--screenshot=" + shot, "--window-size=1400,2200"}
		if scheme == "dark" {
			args = append(args, "--blink-settings=preferredColorScheme=0")
		}
		_, log := browse(t, browser, append(args, filepath.Join(dir, pageHTML))...)
		if strings.Contains(log, "CONSOLE") {
			t.Errorf("the console says %s", log)
		}
		checkScreenshot(t, shot, scheme == "dark")
	}
}

func findBrowser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("needs Chromium (on Debian: apt-get install chromium)")
	return ""
}

// browse opens a page in a browser without a window and returns what it prints.
func browse(t *testing.T, browser string, args ...string) (out, log string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args = append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr",
		"--user-data-dir=" + t.TempDir(), "--virtual-time-budget=5000",
	}, args...)
	args[len(args)-1] = "file://" + args[len(args)-1]
	cmd := exec.CommandContext(ctx, browser, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Fatalf("%s took more than a minute:\n%s", browser, &stderr)
		}
		t.Fatalf("%s: %v\n%s", browser, err, &stderr)
	}
	return stdout.String(), stderr.String()
}

// checkScreenshot requires that a page fills the window in its colours.
func checkScreenshot(t *testing.T, file string, dark bool) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, _, err := image.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	b := img.Bounds()
	bright := 0
	for y := b.Min.Y; y < b.Max.Y; y += 5 {
		for x := b.Min.X; x < b.Max.X; x += 5 {
			if r, _, _, _ := img.At(x, y).RGBA(); r > 0x8000 {
				bright++
			}
		}
	}
	share := float64(bright) / float64(b.Dx()*b.Dy()/25)
	if low, high := 0.85, 0.995; !dark && (share < low || share > high) || dark && (share > 1-low || share < 1-high) {
		t.Errorf("%s: %.1f%% of the pixels are bright", file, 100*share)
	}
}
