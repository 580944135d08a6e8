package techniques

import (
	"strings"
	"testing"

	"forefend.dev/forefend/predictor/threat"
)

// What is shipped makes sense to who matches it.
func TestShippedTechniques(t *testing.T) {
	list := Shipped()
	p, problems := threat.NewPatterns(list)
	if len(problems) > 0 || p.Len() != len(list) || p.Len() < 5 {
		t.Errorf("%d of %d, %v", p.Len(), len(list), problems)
	}
	miner := p.Techniques(threat.Facts{Program: "/bin/sh", Executables: []string{"/usr/bin/xmrig-6.2"}})
	if len(miner) != 1 || miner[0].ID != "T1496" || miner[0].Confidence != 0.9 {
		t.Errorf("%+v", miner)
	}
	if honest := p.Techniques(threat.Facts{Program: "/usr/sbin/nginx", Executables: []string{"/usr/sbin/nginx"}, Destinations: []string{"tcp/10.0.0.1:5432"},
		Syscalls: map[string]uint64{"execve": 1, "socket": 4}}); len(honest) != 0 {
		t.Errorf("%+v", honest)
	}
}

func TestParse(t *testing.T) {
	for text, says := range map[string]string{
		"[[technique]]\nid = 5":                                "incompatible types",
		"[[technique]]\nid = \"T1\"\nnonsense = 1":             "unknown key technique.nonsense",
		"[[technique]]\n[[technique.rule]]\nwithin = \"soon\"": "within",
		"[[technique": "expected",
	} {
		if _, err := Parse("f.toml", []byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
