package policy

import (
	"reflect"
	"testing"
)

func TestSiteProfile(t *testing.T) {
	site := Site{Profiles: []Profile{
		{Name: "ci", Users: []string{"ci-*", "root"}, Groups: []string{"build"}},
		{Name: "broken", Users: []string{"["}},
		{Name: "web", Groups: []string{"web?"}},
		{Name: "all", Users: []string{"*"}, Groups: []string{"never"}},
	}}
	for _, c := range []struct{ user, group, want string }{
		{"ci-7", "", "ci"},
		{"root", "web1", "ci"},
		{"", "build", "ci"},
		{"[", "", "all"},
		{"alice", "web1", "web"},
		{"alice", "web12", "all"},
		{"alice/bob", "", "all"},
		{"", "", "all"},
	} {
		if got := site.Profile(c.user, c.group); got.Name != c.want {
			t.Errorf("%q of %q has profile %s, want %s", c.user, c.group, got.Name, c.want)
		}
	}
	site.Profiles = []Profile{{Name: "odd", Users: []string{"**", "a"}}}
	if got := site.Profile("", ""); !reflect.DeepEqual(got, Profile{Name: DefaultProfile}) {
		t.Errorf("a nameless workload has %+v", got)
	}
}

func TestCheckPattern(t *testing.T) {
	for pattern, ok := range map[string]bool{"*": true, "web-[a-c]?": true, "": false, "[a": false, "a b": false, `a\`: false} {
		if err := CheckPattern(pattern); (err == nil) != ok {
			t.Errorf("%q: %v", pattern, err)
		}
	}
}

func TestSiteInput(t *testing.T) {
	site := Site{
		Claims: []Claim{claim(KeyPIDs, 100, Default, "site"), claim(KeyMemory, 1, Default, "site")},
		Guards: []Guard{{Key: KeyPIDs, Ceiling: at(5000), Source: "site"}},
		Prefer: map[Dimension]Prefer{Resources: PreferStrictest},
	}
	profile := Profile{
		Name: "batch", Grants: []Key{KeyMemory},
		Claims: []Claim{claim(KeyPIDs, 4000, Default, "profile batch")},
		Guards: []Guard{{Key: KeyPIDs, Ceiling: at(3000), Source: "profile batch"}},
	}
	own := []Claim{claim(KeyPIDs, 10, Default, "forefend"), annotated(KeyMemory, 9)}
	in := site.Input(profile, own)
	e := Merge(in)
	f, _ := e.Lookup(KeyPIDs)
	const want = "3000 by profile batch; not 100 by site: a default for fewer workloads replaces it; " +
		"not 10 by forefend: a default for fewer workloads replaces it; not 4000 by profile batch: looser than the ceiling"
	if got := decided(f); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if v := e.Value(KeyMemory, 0); v != 9 {
		t.Errorf("the profile's grant did not count: memory %d", v)
	}
	if in.Profile != "batch" || in.Prefer[Resources] != PreferStrictest {
		t.Errorf("got %+v", in)
	}
	in.Claims[0].Value, in.Guards[0].Key, in.Grants[0] = 0, "", ""
	in.Claims[2].Value = 0
	in.Prefer[Resources] = ""
	if own[0].Value != 10 || site.Claims[0].Value != 100 || site.Guards[0].Key != KeyPIDs || profile.Grants[0] != KeyMemory || site.Prefer[Resources] != PreferStrictest {
		t.Error("Input shares memory with the site")
	}
}
