package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"forefend.dev/forefend/cmd/internal/config/rules"
	"forefend.dev/forefend/netns/pdp"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/store"
)

// Open puts the newest version of a store in force. tell is told of that, and of each change, from one goroutine at a time. An empty
// bucket means that what holds where no rule applies holds for everything; versions of which none can be used, that nothing may leave.
// The error is about a store that cannot be read.
func Open(ctx context.Context, s *store.Store, o pdp.Options, now func() time.Time, tell func(Change)) (*Bucket, error) {
	b := &Bucket{Current: rules.NewCurrent(), store: s, options: o, tell: tell, now: now}
	f, err := b.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("egress rules: %w", err)
	}
	var set *pdp.Set
	if !f.newer {
		b.inForce = f.newest
	}
	b.last = max(f.newest.Number, f.last)
	switch d, err := Compile(f.newest.Contents, f.newest.Number, o); {
	case f.newer:
		b.warning = "the newest egress rules in the store were written by a later release of forefend, and are not understood: nothing may leave until others are pushed"
	case f.newest.Number == 0 && f.last > 0:
		b.warning = "all egress rules in the store are damaged: nothing may leave until others are pushed"
	case err != nil: // of none too, where the configuration adds what is wrong
		b.warning = fmt.Sprintf("version %d of the egress rules is not in order under this configuration, and nothing may leave: %s", f.newest.Number, short(err))
	case f.newest.Number == 0:
		set, b.warning = d.Set, "there are no egress rules in the store: [egress] default holds for every request until forefend policy push"
	case f.lost:
		set, b.warning = d.Set, fmt.Sprintf("a newer version of the egress rules is damaged: version %d is in force instead", f.newest.Number)
	default:
		set = d.Set
	}
	if f.newest.Number > f.copied && !f.newer {
		if why := b.copy(f.seq, f.newest); b.warning == "" {
			b.warning = why
		}
	}
	epoch := b.Take(set)
	tell(Change{Version: b.inForce.RuleVersion, Epoch: epoch, Began: true, Warning: b.warning})
	return b, nil
}

// found is what a store has of rules.
type found struct {
	newest api.RuleFiles // Number 0: none that can be used
	seq    uint64        // the record that has it, or had it
	copied uint64        // the number that the second copy has
	last   uint64        // of the greatest record there was: numbers are not smaller
	lost   bool          // there was a newer one
	newer  bool          // there is one of a later release after it
}

// read looks at both copies.
func (b *Bucket) read(ctx context.Context) (f found, err error) {
	state, err := b.store.State(ctx, store.Rules)
	if err != nil {
		return f, err
	}
	f.last = state.Last
	var read, later uint64 // the last record that could be read; the last one of a later release
	err = b.store.Replay(ctx, store.Rules, 0, func(r store.Record) error {
		v, err := decode(r.Body)
		switch {
		case errors.Is(err, errNewer):
			read, later = r.Seq, r.Seq
			return nil
		case err != nil:
			b.store.SetAsideRecord(store.Rules, r, err)
			return nil
		}
		b.kept = append(b.kept, kept{v.RuleVersion, r.Seq})
		if read = r.Seq; v.Number > f.newest.Number {
			f.newest, f.seq = v, r.Seq
		}
		return nil
	})
	if err != nil {
		return f, err
	}
	var copied api.RuleFiles
	var copyLater bool
	seq, has, err := b.store.ReadSnapshot(snapshot, func(r io.Reader) error {
		body, err := io.ReadAll(io.LimitReader(r, store.MaxRecord+1))
		if err == nil {
			copied, err = decode(body)
		}
		if errors.Is(err, errNewer) {
			copyLater, copied, err = true, api.RuleFiles{}, nil // it is no damage: leave it where it is
		}
		return err
	})
	if err != nil {
		return f, err
	}
	if has && copyLater {
		later = max(later, seq)
	} else if has {
		f.copied = copied.Number
	}
	if copied.Number > f.newest.Number {
		f.newest, f.seq = copied, seq
		b.kept = append(b.kept, kept{copied.RuleVersion, seq})
		read = max(read, seq)
	}
	f.lost, f.newer = read < f.last, later > f.seq
	return f, nil
}
