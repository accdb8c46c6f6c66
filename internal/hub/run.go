package hub

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"mlkv/internal/outdir"
	"mlkv/internal/ui"
)

// Options of the pull command.
type Options struct {
	Repo    string   // as ParseRepo reads it
	DataSet bool     // Repo names a data set without saying so
	Include []string // files or patterns to take; none: what Kind suggests
	Exclude []string // patterns to leave out
	// Out is a folder to fill with the files, beside the cache; empty: none.
	Out    string
	Link   bool // fill it with hard links instead of copies
	Force  bool // replace it
	List   bool // show what would be pulled, and fetch nothing
	Verify bool // compare the checksums of what is cached, too
	JSON   bool // print the result as JSON
	// Connections is how many requests may be under way at once.
	Connections int
	// Retries is how often in a row a request may be tried anew in vain.
	Retries int

	Settings Settings
}

// filesAtOnce bounds the files that are on their way together.
const filesAtOnce = 4

// Run pulls the files of a repository into the cache and prints the folder that
// holds them. When ctx ends, what was received is kept for the next call.
func Run(ctx context.Context, o Options, s ui.Streams) error {
	repo, err := o.repo()
	if err != nil {
		return err
	}
	p := pull{Options: o, repo: repo, streams: s}
	if o.Settings.Offline {
		return p.offline(ctx)
	}
	return p.online(ctx)
}

func (o Options) repo() (Repo, error) {
	if o.Connections < 1 {
		return Repo{}, ui.Usagef("connections: expected 1 or more, found %d", o.Connections)
	}
	if o.Retries < 0 {
		return Repo{}, ui.Usagef("retries: expected 0 or more, found %d", o.Retries)
	}
	if (o.Link || o.Force) && o.Out == "" {
		return Repo{}, ui.Usagef("--link and --force concern the folder of --out, which is not given")
	}
	repo, err := ParseRepo(o.Repo)
	if err != nil {
		return Repo{}, err
	}
	if o.DataSet {
		repo.Kind = DataSet
	}
	return repo, nil
}

// pull is one run of the command.
type pull struct {
	Options
	repo    Repo
	streams ui.Streams
	client  *client

	commit string
	files  []File
}

// say writes a line that is not a result.
func (p *pull) say(format string, args ...any) {
	fmt.Fprintf(p.streams.Err, format+"\n", args...)
}

func (p *pull) online(ctx context.Context) error {
	var err error
	if p.client, err = newClient(p.Settings, p.Connections, p.Retries+1, p.say); err != nil {
		return err
	}
	if p.Repo != p.repo.String() {
		p.say("%s is %s", p.Repo, p.repo)
	}
	if err := p.find(ctx); err != nil {
		return err
	}
	if p.List {
		return p.list()
	}
	cache, err := openCache(p.Settings.Cache, p.repo)
	if err != nil {
		return err
	}
	defer cache.close()
	if err := p.download(ctx, cache); err != nil {
		return err
	}
	return p.result(cache.snapshot(p.commit))
}

// find asks the hub what there is and chooses from it.
func (p *pull) find(ctx context.Context) error {
	commit, files, err := p.client.info(ctx, p.repo)
	if err != nil {
		return err
	}
	if p.files, err = choose(p.repo, files, p.Include, p.Exclude); err != nil {
		return err
	}
	p.commit = commit
	return p.client.complete(ctx, p.repo, commit, p.files, p.Connections)
}

// download brings the files into the cache and, where wanted, into a folder of
// their own.
func (p *pull) download(ctx context.Context, cache *cache) error {
	there := map[string]int64{}
	var total, need int64
	for _, f := range p.files {
		there[f.Path] = cache.received(f)
		total += f.Size
		need += f.Size - there[f.Path]
	}
	if p.Verify {
		clear(there)
	}
	if err := p.space(need, total); err != nil {
		return err
	}
	out, err := p.openOut()
	if err != nil {
		return err
	}
	if out != nil {
		defer out.Abort()
	}
	if err := p.fetch(ctx, cache, there); err != nil {
		if ctx.Err() != nil {
			p.say("%s: what was received is kept; the same command goes on from it", p.repo)
		}
		return err
	}
	if err := cache.publish(ctx, p.commit, p.files); err != nil {
		return err
	}
	if err := cache.setRef(p.repo.Revision, p.commit); err != nil {
		return err
	}
	return p.fill(ctx, out, cache.snapshot(p.commit))
}

// fill puts the files into the output folder, if there is one.
func (p *pull) fill(ctx context.Context, out *outdir.Dir, snapshot string) error {
	if out == nil {
		return nil
	}
	if err := fillFolder(ctx, out, snapshot, p.files, p.Link); err != nil {
		return err
	}
	return out.Commit()
}

func (p *pull) space(need, total int64) error {
	out, copies := p.Out, total
	if out == "" || p.Link {
		out, copies = p.Settings.Cache, 0
	}
	return checkSpace(p.Settings.Cache, need, out, copies)
}

// openOut claims the output folder before anything is fetched for it.
func (p *pull) openOut() (*outdir.Dir, error) {
	if p.Out == "" {
		return nil, nil
	}
	return outdir.Create(p.Out, p.Force)
}

// fetch makes the blobs of all files be there.
func (p *pull) fetch(ctx context.Context, cache *cache, there map[string]int64) error {
	bars := newBars(p.streams, filepath.Base(p.repo.ID), p.files, there)
	defer bars.end()
	notes := limited{print: bars.printf}
	p.client.note = notes.printf
	defer func() { p.client.note = p.say }()
	d := &downloads{
		client: p.client, cache: cache, repo: p.repo, commit: p.commit,
		slots: make(chan struct{}, p.Connections), recheck: p.Verify, bars: bars,
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(filesAtOnce)
	var finished atomic.Int64
	for _, f := range p.files {
		g.Go(func() error {
			if err := d.fetch(ctx, f); err != nil {
				return err
			}
			bars.all.Note(fmt.Sprintf("%d of %d files", finished.Add(1), len(p.files)))
			return nil
		})
	}
	return g.Wait()
}

// limited passes on at most one remark a second: connections that fail
// together say the same.
type limited struct {
	print func(string, ...any)

	mu   sync.Mutex
	last time.Time
}

func (l *limited) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.last) >= time.Second {
		l.last = now
		l.print(format, args...)
	}
}
