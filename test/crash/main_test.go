package crash

import (
	"fmt"
	"os"
	"testing"
)

// Variables that make this test binary something else than the tests.
const (
	tracerVariable = "FOREFEND_CRASH_TRACER" // the tracer of one cell
	allVariable    = "FOREFEND_CRASH"        // "all": every power cut, not a sample
)

func TestMain(m *testing.M) {
	var err error
	switch plan, dir, log := os.Getenv(tracerVariable), os.Getenv(writerVariable), os.Getenv(recorderVariable); {
	case plan != "":
		err = runPlan(plan)
	case log != "":
		err = recordProcess(dir, log)
	case dir != "":
		err = writer(dir)
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

// everything tells whether every power cut was asked for.
func everything() bool { return os.Getenv(allVariable) == "all" }
