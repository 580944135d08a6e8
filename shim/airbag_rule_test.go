package shim

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"forefend.dev/forefend/runtime/orchestrator/api"
)

const mib = 1 << 20

func TestHeadroom(t *testing.T) {
	for _, c := range []struct {
		need int64
		rate float64
		want int64
	}{
		{0, 0, 64 * mib}, {256 * mib, 0, 64 * mib}, {1024 * mib, 0, 256 * mib}, {100 * mib, 1000 * mib, 200 * mib},
		{4096 * mib, 1000 * mib, 1024 * mib}, {0, -5, 64 * mib}, {0, math.Inf(1), 1 << 60},
	} {
		if got := headroom(c.need, c.rate); got != c.want {
			t.Errorf("headroom of %d MiB growing by %g MiB/s: %d MiB, want %d", c.need/mib, c.rate/mib, got/mib, c.want/mib)
		}
	}
}

// TestTripIsWhereRoomIsShort: the mark is where short begins, to a page or so.
func TestTripIsWhereRoomIsShort(t *testing.T) {
	for _, limit := range []int64{32 * mib, 64 * mib, 100 * mib, 288 * mib, 289 * mib, 1024 * mib, 16384 * mib} {
		trip := tripAt(limit)
		if !short(limit, trip+64, 0) || trip > 64 && short(limit, trip-64, 0) {
			t.Errorf("limit %d MiB: trips at %d, short before it %v, after it %v", limit/mib, trip, short(limit, trip-64, 0), short(limit, trip+64, 0))
		}
	}
}

// weigh is what becomes of a limit on a node with so much memory; negative: nobody knows.
func weigh(t *api.Airbag, limit, need int64, rate float64, free int64) (raise, string) {
	terms := termsOf(t, math.MaxInt64)
	r := judge(&terms, limit, need, rate)
	if r.to > 0 && free >= 0 {
		r = spare(&terms, limit, r, free)
	}
	return r, (&notice{held: r.held, available: free}).because(t)
}

func TestJudge(t *testing.T) {
	table := api.Airbag{Predicted: 64 * mib, Ceiling: 1024 * mib, CeilingBy: "guardrail", Reserve: 100 * mib}
	held, bounded := table, table
	held.Held = "the risk is high"
	bounded.Growth, bounded.GrowthBy = 3, "the scan found that it allocates all there is"
	const plenty = 1 << 40
	for name, c := range map[string]struct {
		table       api.Airbag
		limit, need int64
		rate        float64
		free        int64
		to          int64
		held        string
		last        bool
	}{
		"slow":                     {table, 64 * mib, 33 * mib, 0, plenty, 97 * mib, "", false},
		"fast":                     {table, 64 * mib, 33 * mib, 1000 * mib, plenty, 233 * mib, "", false},
		"odd sizes":                {table, 64 * mib, 33*mib + 5, 0, plenty, 98 * mib, "", false},
		"to the ceiling":           {table, 1000 * mib, 990 * mib, 0, plenty, 1024 * mib, "ceiling is 1 GiB (guardrail)", true},
		"the ceiling, just":        {table, 900 * mib, 819 * mib, 0, plenty, 1024 * mib, "ceiling is 1 GiB (guardrail)", true},
		"at the ceiling":           {table, 1024 * mib, 1020 * mib, 0, plenty, 0, "ceiling is 1 GiB", true},
		"already enough":           {table, 200 * mib, 33 * mib, 0, plenty, 0, "", false},
		"held":                     {held, 64 * mib, 60 * mib, 0, plenty, 0, "risk is high", false},
		"under what was predicted": {held, 40 * mib, 30 * mib, 0, plenty, 94 * mib, "", false},
		"as often as allowed":      {bounded, 180 * mib, 170 * mib, 0, plenty, 192 * mib, "beyond 3 times", false},
		"more often":               {bounded, 192 * mib, 190 * mib, 0, plenty, 0, "allocates all", false},
		"a node that is short":     {table, 64 * mib, 60 * mib, 0, 110 * mib, 74 * mib, "the node has 110 MiB left", false},
		"a node with nothing":      {table, 64 * mib, 60 * mib, 0, 100 * mib, 0, "keeps 100 MiB", false},
		"a node nobody can read":   {table, 64 * mib, 60 * mib, 0, -1, 124 * mib, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			got, why := weigh(&c.table, c.limit, c.need, c.rate, c.free)
			if got.to != c.to || got.last != c.last || !strings.Contains(why, c.held) || why == "" != (c.held == "") {
				t.Errorf("got %+v (to %d MiB), %q", got, got.to/mib, why)
			}
		})
	}
}

// TestJudgeNeverLowersNorCrosses: whatever comes, a limit only rises, and not over the ceiling nor into the node's reserve.
func TestJudgeNeverLowersNorCrosses(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		tb := api.Airbag{Predicted: r.Int64N(1 << 32), Ceiling: r.Int64N(1 << 34), Reserve: r.Int64N(1 << 30), Growth: float64(r.IntN(5))}
		limit, need, rate, free := r.Int64N(1<<34), r.Int64N(1<<34), r.Float64()*3e9, r.Int64N(1<<34)
		got, why := weigh(&tb, limit, need, rate, free)
		if got.to != 0 && (got.to <= limit || got.to > tb.Ceiling || got.to-limit > free-tb.Reserve) || (got.held == causeNone) != (why == "") {
			t.Fatalf("%+v from %d, need %d, rate %g, free %d: %+v", tb, limit, need, rate, free, got)
		}
	}
}
