package main

import (
	"testing"
	"time"
)

// The large share is for answers: who is busy for long loses it, and has it back once that is over.
func TestCPUShare(t *testing.T) {
	var s cpuShare
	for i, step := range []struct {
		used    float64 // of all processors
		seconds int
		usual   bool // in the end
	}{
		{1, 9, false},   // a crowd of containers
		{0.1, 1, false}, // has started
		{1, 9, false},   // another one
		{0.4, 1, false}, // less for a moment
		{1, 9, false},   // does not add up
		{1, 1, true},    // but ten seconds without a pause are long
		{0.3, 60, true}, // and it is not over yet
		{0.2, 1, false},
		{1, 9, false},
		{1, 1, true},
	} {
		was, changes := s.usual, 0
		for range step.seconds {
			if s.look(step.used, time.Second) {
				changes++
			}
		}
		if s.usual != step.usual || changes > 1 || (changes == 1) != (was != s.usual) {
			t.Fatalf("step %d: usual %t after %d changes", i, s.usual, changes)
		}
	}
}
