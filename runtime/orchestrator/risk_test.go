package orchestrator

import (
	"testing"

	"forefend.dev/forefend/predictor/evidence"
)

// TestRiskChange: who waits is told of another number, and of nothing less.
func TestRiskChange(t *testing.T) {
	s, r := &Service{}, &running{}
	changed := s.RiskChange()
	s.assessLocked(r, &evidence.Risk{Score: 7.2})
	<-changed
	changed = s.RiskChange()
	s.assessLocked(r, &evidence.Risk{Score: 7.9})
	select {
	case <-changed:
		t.Error("told of 7 after 7")
	default:
	}
	s.assessLocked(r, &evidence.Risk{Score: 80})
	<-changed
	s.assessLocked(r, nil) // nobody waits
}
