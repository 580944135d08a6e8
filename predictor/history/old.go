package history

import "forefend.dev/forefend/predictor/estimate"

// skipCalibrations reads over what version 1 kept of three calibrators.
func (r *reader) skipCalibrations() {
	for range 3 {
		for range r.count(64) {
			r.double()
		}
		for range r.count(1024) {
			for range r.count(estimate.MaxScores) {
				r.float()
			}
		}
	}
}

// oldPeaks reads the peaks of version 1: memory, CPU and PIDs, and when the run ended.
func (r *reader) oldPeaks() []peak {
	n := r.count(estimate.Window)
	if n == 0 {
		return nil
	}
	list := make([]peak, n)
	for i := range list {
		list[i] = peak{memory: r.float(), cpu: r.float(), pids: r.float()}
		r.uint32()
	}
	return list
}
