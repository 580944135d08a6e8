package evidence

import (
	"strings"
	"testing"
)

func TestSized(t *testing.T) {
	unfollowed := []Unknown{{Kind: UnknownPlugin, Where: "/usr/lib/a.so"}, {Kind: UnknownProgram, Where: "/entrypoint.sh:3"}}
	runs := func(paths ...string) *Scan {
		s := &Scan{Entry: "/sbin/init"}
		for _, p := range paths {
			s.Programs = append(s.Programs, Program{Path: p})
		}
		return s
	}
	for name, c := range map[string]struct {
		scan *Scan
		want Sized
	}{
		"no scan":            {nil, Sized{Why: "static analysis has not said"}},
		"nothing found":      {&Scan{Unknown: unfollowed}, Sized{Why: "static analysis has not said"}},
		"a runtime":          {&Scan{Entry: "/usr/bin/app", Memory: MemoryPrior{Runtime: "jvm"}, Unknown: unfollowed}, Sized{Known: true, Program: "jvm"}},
		"V8":                 {&Scan{Entry: "/usr/bin/app", Memory: MemoryPrior{Runtime: "node"}}, Sized{Known: true, Program: "node"}},
		"Go":                 {&Scan{Entry: "/usr/bin/app", Memory: MemoryPrior{Runtime: "go"}}, Sized{Known: true}},
		"a program":          {runs("/bin/sh", "/usr/bin/mongod"), Sized{Known: true, Program: "mongod"}},
		"a library":          {runs("/bin/app", "/usr/lib/jvm/17/lib/server/libjvm.so"), Sized{Known: true, Program: "libjvm.so"}},
		"a version":          {runs("/usr/lib/libnode.so.108"), Sized{Known: true, Program: "libnode.so.108"}},
		"named alike":        {runs("/usr/bin/javascript-lint", "/usr/bin/nodetool"), Sized{Known: true}},
		"another program":    {&Scan{Entry: "/bin/sh", Unknown: unfollowed}, Sized{Why: "could not follow what /entrypoint.sh:3 executes"}},
		"another plug-in":    {&Scan{Entry: "/bin/app", Unknown: unfollowed[:1]}, Sized{Known: true}},
		"known all the same": {&Scan{Entry: "/bin/sh", Programs: []Program{{Path: "/usr/bin/java"}}, Unknown: unfollowed}, Sized{Known: true, Program: "java"}},
	} {
		got := c.scan.Sized()
		if got.Known != c.want.Known || got.Program != c.want.Program || !strings.Contains(got.Why, c.want.Why) || got.Known != (got.Why == "") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
