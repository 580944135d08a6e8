package recommend

import (
	"fmt"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
)

// How far ahead a predicted memory limit is raised, and when it is worth lowering (docs/decisions/0057). The airbag in the
// shim does what cannot wait; this does what it cannot see: a slow growth that goes on, and room that nobody needs.
const (
	raiseAhead     = time.Minute // a limit that is likely to be reached within this time is raised for twice as long
	likelyReached  = 0.5         // probability from which it is
	lowerBy        = 8           // one part in of the limit is the least that it is lowered by
	roomLongest    = 3           // doublings of the calm, as of Pace
	roomForgiven   = 2           // after how many of the longest calms a lowering that was right is forgotten
	leastRoomMoved = 16 << 20    // bytes; less is not worth a revision
)

// Room is what is remembered of how one run uses the room under its predicted memory limit. The zero value has seen
// nothing. It is not changed by its methods.
type Room struct {
	Since   time.Time // of the present calm
	Peak    int64     // bytes, highest need in it
	Limit   int64     // as last seen, or wanted
	Need    int64     // bytes, as last seen
	Seen    time.Time // when
	Lowered time.Time // when a calm last ended in a lower limit
	Hasty   int       // how often a limit that had been lowered was raised soon after, at most roomLongest
}

// RoomFor is what a running container's use of memory says about its predicted limit. Sizes are bytes.
type RoomFor struct {
	Limit, Predicted, Ceiling int64
	Need                      int64             // of what is in use, what the kernel cannot take away; 0: not known
	Growth                    float64           // see api.Airbag
	Held                      bool              // growth is anomalous
	Sized                     string            // a program that sized itself by its limit: it is not lowered
	Forecast                  evidence.Forecast // of memory; the zero value: nothing is known
}

// Next says what the limit is to be, 0 for as it is, why, and what is remembered then. calm is how long much less than the limit
// must have been needed before it is lowered; each time that it had to be raised again soon after, that takes twice as long, up to
// eight times. A limit is never lowered below what was predicted, nor for a program that sized itself by it.
func (r Room) Next(f RoomFor, now time.Time, calm time.Duration) (to int64, why string, next Room) {
	next = r
	if f.Need <= 0 {
		return 0, "", next
	}
	grown := float64(0) // bytes/s since the last look
	if d := now.Sub(r.Seen).Seconds(); !r.Seen.IsZero() && d > 0 {
		grown = float64(f.Need-r.Need) / d
	}
	next.Need, next.Seen = f.Need, now
	next.Peak = max(next.Peak, f.Need)
	longest := roomForgiven * calm << roomLongest
	switch {
	case r.Seen.IsZero() || f.Limit < r.Limit:
		next.Since, next.Peak = now, f.Need
	case f.Limit > r.Limit:
		next.Since, next.Peak = now, f.Need
		if !r.Lowered.IsZero() && now.Sub(r.Lowered) < longest {
			next.Hasty = min(r.Hasty+1, roomLongest)
		}
		next.Lowered = time.Time{}
	case !r.Lowered.IsZero() && now.Sub(r.Lowered) >= longest:
		next.Lowered, next.Hasty = time.Time{}, 0
	}
	next.Limit = f.Limit
	if to, why = f.ahead(grown); to > 0 {
		next.Limit = to
		return to, why, next
	}
	wait := calm << next.Hasty
	if now.Sub(next.Since) < wait {
		return 0, "", next
	}
	if to = f.lower(next.Peak); to > 0 {
		why = fmt.Sprintf("calm: at most %s were needed in %s", memorySize(next.Peak), now.Sub(next.Since).Round(time.Second))
		next.Lowered, next.Limit = now, to
	}
	next.Since, next.Peak = now, f.Need
	return to, why, next
}

// ahead is the limit that leaves room for the growth that is forecast, 0 where it leaves it already. Growth is the slower of
// what was forecast, which has file cache in it, and of what is needed.
func (f RoomFor) ahead(grown float64) (to int64, why string) {
	c := f.Forecast
	slope := min(c.Slope, grown)
	if f.Held || c.Probability < likelyReached || c.TimeToLimit <= 0 || c.TimeToLimit > raiseAhead || !(slope > 0) {
		return 0, ""
	}
	most := min(f.Ceiling, 1<<60)
	if g := float64(f.Predicted) * f.Growth; f.Growth > 0 && g < float64(most) {
		most = int64(g)
	}
	level := float64(f.Need) + 2*slope*raiseAhead.Seconds()
	to = most
	if level < float64(most) {
		to = min(most, roundMiB(int64(level)+room(int64(level))))
	}
	if to-f.Limit < leastRoomMoved {
		return 0, ""
	}
	return to, fmt.Sprintf("forecast: %s in use, growing by %s/s, would reach the limit of %s in %s (probability %.2f)",
		memorySize(f.Need), memorySize(int64(slope)), memorySize(f.Limit), c.TimeToLimit.Round(time.Second), c.Probability)
}

// lower is the limit that leaves its headroom above a need, 0 where that is not worth a change.
func (f RoomFor) lower(peak int64) int64 {
	to := max(f.Predicted, roundMiB(peak+room(peak)))
	if f.Sized != "" || f.Limit-to < max(leastRoomMoved, f.Limit/lowerBy) {
		return 0
	}
	return to
}

// room is the headroom above a need that does not grow; the shim has the same rule.
func room(need int64) int64 { return max(leastHeadroom, need/headroomShare) }

func roundMiB(n int64) int64 { return (n + 1<<20 - 1) >> 20 << 20 }

func memorySize(n int64) string {
	if n >= 1<<20 {
		n = n >> 20 << 20
	}
	return policy.KeyMemory.Format(policy.Value(n))
}
