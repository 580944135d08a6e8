package object

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

func TestZZ(t *testing.T) {
	for _, p := range []string{os.Getenv("ZZ")} {
		d, err := os.ReadFile(p)
		if err != nil {
			t.Skip()
		}
		st := time.Now()
		o, err := Read(d)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(p, time.Since(st), "funcs", len(o.Starts), "edges", len(o.Edges), "imports", len(o.Imports), "exports", len(o.Exports), "roots", len(o.Roots), "numbers", len(o.Numbers), "unknown", o.Unknown, "wrappers", len(o.Wrappers), "go", o.Go, "paths", len(o.Paths), "names", len(o.Names))
		fmt.Println(o.Commands, o.Dynamic)
		for fn, m := range o.Wrappers {
			fmt.Printf("wrap %x %x\n", o.Starts[fn], m)
		}
		for fn, u := range o.Unknown {
			fmt.Printf("unk %x %x\n", o.Starts[fn], u)
		}
		var ms runtime.MemStats
		runtime.ReadMemStats(&ms)
		fmt.Println(ms.Sys >> 20)
	}
}
