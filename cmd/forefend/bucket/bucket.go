package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/cmd/internal/config/rules"
	"forefend.dev/forefend/netns/pdp"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/store"
)

const (
	maxAuthor = 64   // bytes
	maxReason = 256  // bytes
	maxWhy    = 2000 // bytes, of what is wrong with a version
	// testTime is how long the tests of a version may take together.
	testTime = 30 * time.Second
	// keepTime is how long the disk may take.
	keepTime = 30 * time.Second
	// subject is the one subject of the stream.
	subject = "egress"
)

// Bucket is the rules of one daemon's store. It implements api.RuleBucket.
type Bucket struct {
	*rules.Current
	store   *store.Store
	options pdp.Options
	tell    func(Change)
	now     func() time.Time

	changing sync.Mutex // held while a version is made: there is one at a time

	mu      sync.Mutex
	inForce api.RuleFiles // Number 0: none; guarded by mu
	kept    []kept        // the oldest first; guarded by mu
	last    uint64        // the greatest number that may have been given; guarded by mu
	warning string        // guarded by mu
}

var _ api.RuleBucket = (*Bucket)(nil)

// kept is a version, and which record of the stream has its files.
type kept struct {
	api.RuleVersion
	seq uint64
}

// Change is other rules in force.
type Change struct {
	Version api.RuleVersion // Number 0: none
	Epoch   uint64
	Began   bool   // it was found so when the daemon began
	Warning string // why that is not what it should be
}

// Warning says why what is in force is not what it should be; "": it is.
func (b *Bucket) Warning() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.warning
}

// Push implements api.RuleBucket.
func (b *Bucket) Push(ctx context.Context, r api.RulePush) (api.RuleChange, error) {
	b.changing.Lock()
	defer b.changing.Unlock()
	return b.change(ctx, r.Files, api.RuleVersion{Author: r.Author, Reason: r.Reason})
}

// Rollback implements api.RuleBucket.
func (b *Bucket) Rollback(ctx context.Context, r api.RuleRollback) (api.RuleChange, error) {
	b.changing.Lock()
	defer b.changing.Unlock()
	to := r.To
	if to == 0 {
		b.mu.Lock()
		for _, k := range b.kept {
			if k.Number < b.inForce.Number {
				to = max(to, k.Number)
			}
		}
		b.mu.Unlock()
		if to == 0 {
			return api.RuleChange{}, fmt.Errorf("no version of the rules is kept before the one in force: %w", errdefs.ErrNotFound)
		}
	}
	old, err := b.files(ctx, to)
	if err != nil {
		return api.RuleChange{}, err
	}
	return b.change(ctx, old.Contents, api.RuleVersion{Author: r.Author, Reason: r.Reason, From: to})
}

// change makes a version of files and puts it in force. b.changing is held.
func (b *Bucket) change(ctx context.Context, files map[string][]byte, v api.RuleVersion) (api.RuleChange, error) {
	if err := Check(files); err != nil {
		return api.RuleChange{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	v.Digest = rules.Digest(files)
	b.mu.Lock()
	old, sound := b.inForce, b.warning == ""
	v.Number = b.last + 1
	b.mu.Unlock()
	if sound && old.Digest == v.Digest {
		_, epoch := b.Rules()
		return api.RuleChange{RuleVersion: old.RuleVersion, Unchanged: true, Epoch: epoch}, nil
	}
	set, err := b.compile(ctx, files, &v)
	if err != nil {
		return api.RuleChange{}, err
	}
	if err := ctx.Err(); err != nil { // whoever asked has been told that it failed
		return api.RuleChange{}, err
	}
	v.Time, v.Author, v.Reason = b.now().UTC(), clean(v.Author, maxAuthor), clean(v.Reason, maxReason)
	made := api.RuleFiles{RuleVersion: v, Contents: files}
	seq, err := b.keep(context.WithoutCancel(ctx), made)
	if err != nil {
		return api.RuleChange{}, err
	}
	warning := b.copy(seq, made)
	epoch := b.Take(set)
	b.mu.Lock()
	b.inForce, b.warning = made, warning
	b.kept = append(b.kept, kept{v, seq})
	b.mu.Unlock()
	b.forget(context.WithoutCancel(ctx))
	b.tell(Change{Version: v, Epoch: epoch, Warning: warning})
	return api.RuleChange{RuleVersion: v, Epoch: epoch}, nil
}

// compile compiles files and runs their tests, and counts what they have. Whoever sent them has done so too, or says so: that counts
// for nothing.
func (b *Bucket) compile(ctx context.Context, files map[string][]byte, v *api.RuleVersion) (*pdp.Set, error) {
	d, err := Compile(files, v.Number, b.options)
	if err != nil {
		return nil, fmt.Errorf("the rules are not in order, what was in force stays:\n%s: %w", short(err), errdefs.ErrInvalidArgument)
	}
	v.Files, v.Rules, v.Tests, v.Bytes = len(files), d.Rules(), d.Tests(), size(files)
	ctx, cancel := context.WithTimeout(ctx, testTime)
	defer cancel()
	results, err := d.TestWithin(ctx, b.now())
	if err != nil {
		return nil, fmt.Errorf("the rules' tests take too long, what was in force stays: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	var failed []string
	for _, r := range results {
		if !r.OK {
			failed = append(failed, fmt.Sprintf("%s: %s: %s", r.Source, r.Name, strings.Join(r.Wrong, "; ")))
		}
	}
	if failed != nil {
		return nil, fmt.Errorf("%d of the rules' %d tests failed, what was in force stays:\n%s: %w", len(failed), len(results),
			short(errors.New(strings.Join(failed, "\n"))), errdefs.ErrInvalidArgument)
	}
	return d.Set, nil
}

// Compile compiles the files of a version, by whose number the sources of rules are told.
func Compile(files map[string][]byte, number uint64, o pdp.Options) (*rules.Directory, error) {
	return rules.Compile(config.RulesStore, files, number, o)
}

// short cuts what may be thousands of problems.
func short(err error) string {
	s := err.Error()
	if len(s) > maxWhy {
		s = strings.ToValidUTF8(s[:maxWhy], "") + " …"
	}
	return s
}

// keep writes a version to the stream. It is on disk when keep returns without error, and is not there, as far as that can be known,
// when there is one.
func (b *Bucket) keep(ctx context.Context, v api.RuleFiles) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, keepTime)
	defer cancel()
	b.mu.Lock()
	b.last = v.Number // whatever comes of it: no number is given twice
	b.mu.Unlock()
	body, err := encode(v)
	if err != nil {
		return 0, err
	}
	seq, err := b.store.Append(ctx, store.Rules, subject, body)
	if err == nil {
		return seq, nil
	}
	// An answer that came too late would leave a version that nobody knows of, until the next start puts it in force.
	again, cancelAgain := context.WithTimeout(context.WithoutCancel(ctx), keepTime)
	defer cancelAgain()
	newest, readErr := b.store.Newest(again, store.Rules, subject, 1)
	if readErr == nil && len(newest) == 1 && bytes.Equal(newest[0].Body, body) {
		return newest[0].Seq, nil
	}
	return 0, fmt.Errorf("keep version %d of the rules: %w: %w", v.Number, errors.Join(err, readErr), errdefs.ErrUnavailable)
}

// copy writes the second copy. That it could not be is a warning: the record is there.
func (b *Bucket) copy(seq uint64, v api.RuleFiles) (warning string) {
	body, err := encode(v)
	if err == nil {
		err = b.store.WriteSnapshot(snapshot, seq, bytes.NewBuffer(body))
	}
	if err != nil {
		return fmt.Sprintf("version %d of the egress rules has no second copy: %v", v.Number, err)
	}
	return ""
}

// forget drops the versions for which the store has no room any more.
func (b *Bucket) forget(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, keepTime)
	defer cancel()
	state, err := b.store.State(ctx, store.Rules)
	if err != nil {
		return // they are not found when they are asked for
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept = slices.DeleteFunc(b.kept, func(k kept) bool { return k.seq < state.First && k.Number != b.inForce.Number })
}

// Versions implements api.RuleBucket.
func (b *Bucket) Versions(context.Context) (api.RuleVersions, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := api.RuleVersions{InForce: b.inForce.Number, Versions: make([]api.RuleVersion, 0, len(b.kept)), Warning: b.warning}
	for _, k := range slices.Backward(b.kept) {
		r.Versions = append(r.Versions, k.RuleVersion)
	}
	return r, nil
}

// Pull implements api.RuleBucket.
func (b *Bucket) Pull(ctx context.Context, r api.RulePull) (api.RuleFiles, error) {
	return b.files(ctx, r.Version)
}

// files returns a version with its files; number 0 is the one in force.
func (b *Bucket) files(ctx context.Context, number uint64) (api.RuleFiles, error) {
	b.mu.Lock()
	inForce := b.inForce
	at := slices.IndexFunc(b.kept, func(k kept) bool { return k.Number == number })
	var seq uint64
	if at >= 0 {
		seq = b.kept[at].seq
	}
	b.mu.Unlock()
	switch {
	case number == 0 && inForce.Number == 0:
		return api.RuleFiles{}, fmt.Errorf("no rules are in the store: %w", errdefs.ErrNotFound)
	case number == 0 || number == inForce.Number:
		return inForce, nil
	case at < 0:
		return api.RuleFiles{}, fmt.Errorf("version %d of the rules is not kept: %w", number, errdefs.ErrNotFound)
	}
	var found api.RuleFiles
	err := b.store.Replay(ctx, store.Rules, seq, func(r store.Record) (err error) {
		if r.Seq == seq {
			if found, err = decode(r.Body); err != nil {
				return err
			}
		}
		return errRead
	})
	switch {
	case found.Number == number && number != 0:
		return found, nil
	case err == nil || errors.Is(err, errRead):
		err = errors.New("its record is gone")
	}
	return found, fmt.Errorf("version %d of the rules: %w: %w", number, err, errdefs.ErrDataLoss)
}

// errRead ends a Replay.
var errRead = errors.New("read")
