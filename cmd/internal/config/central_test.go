package config

import (
	"strings"
	"testing"
)

func TestRemote(t *testing.T) {
	c := mustLoad(t, "[egress]\npdp = \"remote\"\n[egress.remote]\naddress = \"pdp.test:7443\"\nca = \"/ca\"\ncert = \"/c\"\nkey = \"/k\"\n")
	if got, want := c.Egress.Remote, (Central{Identity{"/ca", "/c", "/k"}, "pdp.test:7443", "pdp.test"}); got != want || !c.Egress.Decides() {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if c = mustLoad(t, "[egress]\nrules = \"/r\"\n"); !c.Egress.Decides() || c.Egress.Serve.Listen != "" {
		t.Errorf("%+v", c.Egress)
	}
	if c.Egress.Stored() {
		t.Errorf("%+v", c.Egress)
	}
	c = mustLoad(t, "[egress]\nrules = \"store\"\n[egress.serve]\nca=\"/a\"\ncert=\"/a\"\nkey=\"/a\"\nlisten=\":1\"\nnames=[\"*\"]\n")
	if !c.Egress.Decides() || !c.Egress.Stored() || c.Egress.Serve.Listen == "" {
		t.Errorf("%+v", c.Egress)
	}
	if mustLoad(t, "").Egress.Decides() {
		t.Error("an empty file has an egress policy")
	}
}

func TestCentralProblems(t *testing.T) {
	for text, want := range map[string]string{
		"[egress]\npdp = \"central\"": "egress.pdp: \"central\" is unknown",
		"[egress]\npdp = \"remote\"":  "egress.pdp: says that another daemon decides, and not which",
		"[egress]\npdp = \"remote\"\nrules = \"/r\"\n[egress.remote]\naddress = \"a:1\"\nca = \"/a\"\ncert = \"/a\"\nkey = \"/a\"": "egress.rules: are not asked",
		"[egress.remote]\naddress = \":1\"":  "egress.remote.address: \":1\" is no address",
		"[egress.remote]\naddress = \"a:1\"": "egress.remote.ca: is missing",
		"[egress]\nrules=\"/r\"\n[egress.serve]\nca=\"/a\"\ncert=\"/a\"\nkey=\"/a\"\nlisten=\":1\"": "does not say for whom",
		"[egress]\nrules=\"/r\"\n[egress.serve]\nca=\"/a\"\ncert=\"/a\"\nkey=\"/a\"\nnames=[\"*\"]": "does not say where",
		"[egress.serve]\nca=\"/a\"\ncert=\"/a\"\nkey=\"/a\"\nlisten=\":1\"\nnames=[\"*\"]":          "needs rules to decide by",
		"[egress.serve]\nnames=[\"[\"]": "is no pattern of names",
	} {
		problems, err := Check(write(t, text))
		if err != nil || !strings.Contains(Problems(problems).Error(), want) {
			t.Errorf("%q: missing %q in\n%v", text, want, Problems(problems))
		}
	}
}
