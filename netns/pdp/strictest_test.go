package pdp

import (
	"reflect"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
)

func TestStrictest(t *testing.T) {
	eu := flow.Decision{
		Version: flow.Version, Epoch: 7, RuleVersion: "13", Reason: "encryption standard by eu", Profile: flow.Profile{Encryption: flow.Standard, Endpoint: "eu"},
		Matches: []flow.Match{{Rule: "eu"}}, Depends: []flow.Field{flow.FieldImage},
	}
	strong := flow.Decision{
		Version: flow.Version, Epoch: 6, RuleVersion: "12", Reason: "encryption strong by all", Profile: flow.Profile{Encryption: flow.Strong}, Valid: time.Second,
		Matches: []flow.Match{{Rule: "eu"}, {Rule: "all"}}, Depends: []flow.Field{flow.FieldImage, flow.FieldRisk},
	}
	later := strong
	later.Valid = time.Minute
	us := flow.Decision{Version: flow.Version, Epoch: 7, Reason: "encryption none by us", Profile: flow.Profile{Endpoint: "us"}}
	no := flow.Decision{Version: flow.Version, Epoch: 7, Reason: "denied by no", Profile: flow.Profile{Deny: true}}
	const since = " answers, since it is not known which container asks"
	for name, c := range map[string]struct {
		of   []flow.Decision
		want flow.Decision
	}{
		"one": {[]flow.Decision{eu}, eu},
		"all that is demanded, for as long as it all holds": {[]flow.Decision{eu, later, strong}, flow.Decision{
			Version: flow.Version, Epoch: 6, RuleVersion: "12", Reason: "encryption standard by eu; encryption strong by all; the strictest of 3" + since, Valid: time.Second,
			Profile: flow.Profile{Encryption: flow.Strong, Endpoint: "eu"}, Matches: strong.Matches, Depends: strong.Depends,
		}},
		"two endpoints, one of an answer that no rules had a say in": {[]flow.Decision{us, eu}, flow.Decision{
			Version: flow.Version, Epoch: 7, RuleVersion: "13", Profile: flow.Profile{Deny: true}, Matches: eu.Matches, Depends: eu.Depends,
			Reason: "denied: no tunnel has two endpoints: encryption none by us; encryption standard by eu; the strictest of 2" + since,
		}},
		"a denial": {[]flow.Decision{us, no}, flow.Decision{
			Version: flow.Version, Epoch: 7, Profile: flow.Profile{Deny: true}, Reason: "encryption none by us; denied by no; the strictest of 2" + since,
		}},
	} {
		if got := Strictest(c.of); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v\nwant %+v", name, got, c.want)
		}
	}
	if len(eu.Matches) != 1 || len(eu.Depends) != 1 {
		t.Error("an answer was written to")
	}
}
