package anomaly

// Series judges one value per time step against those before it.
type Series struct{ n int }

// NewSeries returns a detector that has seen nothing.
func NewSeries() *Series { return &Series{} }

// Add takes the next value and returns its score, from 0 to 1, and whether it begins an alarm.
func (s *Series) Add(v float64) (score float64, alarm bool) {
	s.n++
	return 0, false
}

// SeriesThreshold is the score at which a Series alarms.
const SeriesThreshold = 0.5
