package crash

import (
	"fmt"
	"os"
	"testing"
)

// Variables that make this test binary something else than the tests.
const (
	tracerVariable = "FOREFEND_CRASH_TRACER" // the tracer of one cell
	allVariable    = "FOREFEND_CRASH"        // "all": every cell, not one of each kind
)

func TestMain(m *testing.M) {
	if plan := os.Getenv(tracerVariable); plan != "" {
		if err := runPlan(plan); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// everything tells whether the whole matrix was asked for.
func everything() bool { return os.Getenv(allVariable) == "all" }
