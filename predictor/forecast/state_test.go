package forecast

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// small has one network, where it matters not what is expected but that it is kept.
var small = Config{Weights: shipped[:1]}

// livedIn returns a model and tracks that have seen some days.
func livedIn(seed uint64, containers, hours int) (*Model, []*Track) {
	random := rand.New(rand.NewPCG(seed, 3))
	m := New(small)
	var tracks []*Track
	for range containers {
		tracks = append(tracks, m.Track("memory", 1e4))
	}
	for i := range hours * 4 {
		for k, t := range tracks {
			t.Add(begin.Add(time.Duration(i)*15*time.Minute), float64(k+1)*100*(1+random.ExpFloat64()))
		}
	}
	return m, tracks
}

func TestStateGoesOn(t *testing.T) {
	m, tracks := livedIn(1, 10, 60)
	model, err := m.State()
	if err != nil {
		t.Fatal(err)
	}
	again := New(small)
	if err := again.Restore(model); err != nil {
		t.Fatal(err)
	}
	now := begin.Add(60*time.Hour - time.Minute)
	for i, track := range tracks {
		b, err := track.State()
		if err != nil {
			t.Fatal(err)
		}
		resumed := again.Track("memory", 1e4)
		if err := resumed.Resume(b); err != nil {
			t.Fatal(err)
		}
		was, is := track.Forecast(now, 0), resumed.Forecast(now, 0)
		if was.Bound == 0 || is.Bound < 0.8*was.Bound || is.Bound > 1.25*was.Bound || is.Basis != was.Basis {
			t.Errorf("container %d: bound %v, resumed %v (%s, %s)", i, was.Bound, is.Bound, was.Basis, is.Basis)
		}
	}
}

func TestStateRefusesNonsense(t *testing.T) {
	m, tracks := livedIn(2, 2, 9)
	model, _ := m.State()
	track, _ := tracks[0].State()
	for _, bad := range [][]byte{nil, []byte("{}"), model[:len(model)/2], []byte(`{"version":99}`), track} {
		if err := New(small).Restore(bad); !errors.Is(err, ErrState) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
	for _, bad := range [][]byte{nil, []byte(`{"version":1,"start":1,"peaks":[1]}`), track[:9], []byte(`{"version":1,"start":1,"runs":1,"number":1,"peaks":[1],"index":[0]}`)} {
		if err := m.Track("memory", 0).Resume(bad); !errors.Is(err, ErrState) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
	other := New(Config{})
	if err := other.Restore(model); !errors.Is(err, ErrState) {
		t.Errorf("state of other networks: %v", err)
	}
	if b, err := m.Track("pids", 0).State(); err != nil || m.Track("pids", 0).Resume(b) != nil {
		t.Errorf("an empty track: %v", err)
	}
}

func FuzzRestore(f *testing.F) {
	m, tracks := livedIn(3, 2, 5)
	model, _ := m.State()
	track, _ := tracks[0].State()
	f.Add(model)
	f.Add(track)
	f.Add(EncodePrior(shipped[:1]))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = DecodePrior(b)
		m := New(small)
		_ = m.Restore(b)
		track := m.Track("memory", 0)
		_ = track.Resume(b)
		track.Add(begin.Add(1e5*time.Hour), 1)
		track.Add(begin.Add(2e5*time.Hour), 2)
		if bound := track.Forecast(begin.Add(2e5*time.Hour), 3).Bound; !(bound >= 0) {
			t.Errorf("bound %v", bound)
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	_, tracks := livedIn(4, 1, 9)
	at := begin.Add(9 * time.Hour)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		tracks[0].Add(at.Add(time.Duration(i)*10*time.Second), float64(1+i%9))
	}
}

func BenchmarkForecast(b *testing.B) {
	_, tracks := livedIn(5, 1, 9)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		tracks[0].Forecast(begin.Add(9*time.Hour), 1e6)
	}
}

// BenchmarkHour is the end of a window of 1000 containers and the next limits.
func BenchmarkHour(b *testing.B) {
	_, tracks := livedIn(6, 1000, 3)
	for i := 0; b.Loop(); i++ {
		at := begin.Add(time.Duration(3+i) * time.Hour)
		for k, t := range tracks {
			t.Add(at, float64(k+i%7))
		}
		for _, t := range tracks {
			t.Forecast(at, 0)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(tracks)), "µs/container")
}

func BenchmarkRestore(b *testing.B) {
	m, _ := livedIn(7, 300, 20)
	state, _ := m.State()
	b.ReportMetric(float64(len(state)), "bytes")
	for b.Loop() {
		if err := New(small).Restore(state); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleModel() {
	m := New(Config{Coverage: 0.99, Window: time.Hour})
	memory := m.Track("memory", 8<<30) // the node has 8 GiB
	for i := range 8 * 60 {
		memory.Add(begin.Add(time.Duration(i)*time.Minute), 200e6)
	}
	f := memory.Forecast(begin.Add(8*time.Hour), 1<<30)
	fmt.Println(f.Bound >= 200e6, f.Probability < 0.01)
	// Output: true true
}
