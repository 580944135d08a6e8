package recommend

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forefend.dev/forefend/predictor/evidence"
)

const mib = 1 << 20

// used is a container that needs so many MiB under a limit of so many, and was predicted 100.
func used(need, limit int64) RoomFor {
	return RoomFor{Limit: limit * mib, Predicted: 100 * mib, Ceiling: 4096 * mib, Need: need * mib}
}

// growing is used with a forecast of memory that reaches the limit in a time.
func growing(need, limit int64, rate float64, in time.Duration) RoomFor {
	f := used(need, limit)
	f.Forecast = evidence.Forecast{Resource: "memory", Slope: rate * mib, Probability: 0.9, TimeToLimit: in}
	return f
}

func TestRoomIsTakenBackAfterCalm(t *testing.T) {
	const calm = 10 * time.Minute
	var r Room
	var to int64
	var why string
	at := func(after time.Duration, f RoomFor, want int64) {
		t.Helper()
		if to, why, r = r.Next(f, noon.Add(after), calm); to != want*mib || (why == "") != (to == 0) {
			t.Errorf("after %v: %d MiB, %q; want %d", after, to/mib, why, want)
		}
	}
	at(0, used(300, 400), 0)
	at(5*time.Minute, used(350, 450), 0) // it was raised: a new calm begins
	at(6*time.Minute, used(40, 450), 0)
	at(15*time.Minute-1, used(40, 450), 0)
	at(15*time.Minute, used(40, 450), 0) // 350 were needed in that time
	at(25*time.Minute-1, used(50, 450), 0)
	at(25*time.Minute, used(40, 450), 114)
	if !strings.Contains(why, "calm: at most 50 MiB were needed in 10m") {
		t.Errorf("%q", why)
	}
	at(25*time.Minute+time.Second, used(40, 114), 0)
	at(35*time.Minute, used(30, 114), 0) // 14 MiB are not worth a change
	at(36*time.Minute, used(110, 174), 0)
	at(46*time.Minute, used(20, 174), 0)             // it came back soon: twice the calm
	at(56*time.Minute-time.Second, used(20, 174), 0) //
	at(56*time.Minute, used(20, 174), 0)             // 110 were needed in it
	at(76*time.Minute, used(20, 174), 100)           // what was predicted, no less
	at(77*time.Minute, used(90, 154), 0)             // and again: four times
	at(77*time.Minute+2*40*time.Minute, used(20, 154), 0)
	if r.Hasty != 2 {
		t.Errorf("hasty %d times", r.Hasty)
	}
	at(77*time.Minute+3*40*time.Minute, used(20, 154), 100)
	at(77*time.Minute+2*40*time.Minute+4*time.Hour, used(20, 100), 0)
	if r.Hasty != 0 || !r.Lowered.IsZero() {
		t.Errorf("not forgiven: %+v", r)
	}
}

func TestRoomOfWhatSizedItselfStays(t *testing.T) {
	f := used(40, 450)
	f.Sized = "jvm"
	_, _, r := Room{}.Next(f, noon, time.Minute)
	if to, why, _ := r.Next(f, noon.Add(time.Hour), time.Minute); to != 0 {
		t.Errorf("%d MiB: %s", to/mib, why)
	}
}

func TestRoomAhead(t *testing.T) {
	held := growing(80, 140, 1, 30*time.Second)
	held.Held = true
	bounded := growing(150, 190, 1, 30*time.Second)
	bounded.Growth = 3
	unknown := growing(80, 140, 1, 30*time.Second)
	unknown.Need = 0
	unlikely := growing(80, 140, 1, 30*time.Second)
	unlikely.Forecast.Probability = 0.4
	for name, c := range map[string]struct {
		f     RoomFor
		grown int64 // MiB in the ten seconds before
		to    int64
	}{
		"soon":                      {growing(80, 140, 1, 30*time.Second), 10, 264}, // 80 + 120 and a headroom
		"large":                     {growing(1000, 1100, 4, 30*time.Second), 40, 1850},
		"later":                     {growing(80, 140, 1, 2*time.Minute), 10, 0},
		"unlikely":                  {unlikely, 10, 0},
		"only cache grows":          {growing(80, 140, 1, 30*time.Second), 0, 0},
		"cache grows faster":        {growing(80, 140, 5, 30*time.Second), 10, 264},
		"it has slowed down":        {growing(80, 140, 0, 30*time.Second), 10, 0},
		"held":                      {held, 10, 0},
		"anomalous beyond":          {bounded, 10, 300},
		"nobody knows what is used": {unknown, 10, 0},
		"to the ceiling":            {growing(4000, 4050, 5, 10*time.Second), 50, 4096},
		"at the ceiling":            {growing(4050, 4096, 5, 10*time.Second), 50, 0},
		"room enough":               {growing(80, 260, 1, 30*time.Second), 10, 0},
	} {
		before := c.f
		before.Need = max(0, c.f.Need-c.grown*mib)
		before.Forecast = evidence.Forecast{}
		_, _, r := Room{}.Next(before, noon, time.Hour)
		to, why, _ := r.Next(c.f, noon.Add(10*time.Second), time.Hour)
		if to != c.to*mib || to > 0 && !strings.HasPrefix(why, "forecast: ") {
			t.Errorf("%s: %d MiB, %q; want %d", name, to/mib, why, c.to)
		}
	}
}

// Whatever a container does: between what was predicted and the ceiling, raised only for growth, lowered only to what keeps a
// headroom above all need of a whole calm, and not more often than once in it.
func TestRoomLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const calm = 10 * time.Minute
		f := used(rapid.Int64Range(1, 500).Draw(t, "need"), rapid.Int64Range(100, 1000).Draw(t, "limit"))
		now, lowered := noon, noon.Add(-calm)
		type look struct {
			at   time.Time
			need int64
		}
		var looks []look
		var r Room
		for range rapid.IntRange(1, 200).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(1, 300).Draw(t, "seconds")) * time.Second)
			f.Need = rapid.Int64Range(1, f.Limit).Draw(t, "need")
			f.Forecast = evidence.Forecast{
				Slope: rapid.Float64Range(-1e9, 1e12).Draw(t, "slope"), Probability: rapid.Float64Range(0, 1).Draw(t, "probability"),
				TimeToLimit: time.Duration(rapid.Int64Range(0, int64(2*time.Minute)).Draw(t, "time to limit")),
			}
			looks = append(looks, look{now, f.Need})
			to, why, next := r.Next(f, now, calm)
			r = next
			switch {
			case to == 0:
				if why != "" {
					t.Fatalf("nothing changes, because %s", why)
				}
				if rapid.IntRange(0, 9).Draw(t, "the shim raises") == 0 {
					f.Limit = min(f.Ceiling, f.Limit+64*mib)
				}
				continue
			case to < f.Predicted || to > f.Ceiling || to%mib != 0:
				t.Fatalf("limit %d: %s", to, why)
			case to > f.Limit:
				if to < f.Need+room(f.Need) && to != f.Ceiling {
					t.Fatalf("raised to %d, %d needed", to, f.Need)
				}
			default:
				if now.Sub(lowered) < calm {
					t.Fatalf("lowered %v after the last time", now.Sub(lowered))
				}
				for _, l := range looks {
					if now.Sub(l.at) < calm && to < l.need+room(l.need) {
						t.Fatalf("lowered to %d, %d were needed %v ago", to, l.need, now.Sub(l.at))
					}
				}
				lowered = now
			}
			f.Limit = to
		}
	})
}
