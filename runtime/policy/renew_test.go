package policy

import (
	"reflect"
	"testing"
)

func TestRenew(t *testing.T) {
	e := Merge(Input{Claims: []Claim{
		{Key: KeyMemory, Value: 512, Origin: Origin{Author: Default, Source: "site"}},
		{Key: KeyMemory, Value: 64, Origin: Origin{Author: Prediction, Source: "history"}},
		{Key: KeyPIDs, Value: 7, Origin: Origin{Author: Request, Source: "spec"}},
	}})
	before, _ := e.Lookup(KeyMemory)
	first := e.Renew(KeyMemory, 128, Origin{Author: Prediction, Source: "airbag", Revision: 2})
	second := first.Renew(KeyMemory, 256, Origin{Author: Prediction, Source: "airbag", Revision: 3})
	f, _ := second.Lookup(KeyMemory)
	if f.Value != 256 || f.Revision != 3 || len(f.Lost) != 2 {
		t.Errorf("renewed twice: %+v", f)
	}
	if claims := second.ClaimsBy(Prediction); len(claims) != 2 { // the first prediction, and the last
		t.Errorf("the prediction's claims are %+v", claims)
	}
	if now, _ := e.Lookup(KeyMemory); !reflect.DeepEqual(now, before) {
		t.Errorf("the policy before is another: %+v", now)
	}
	if got := e.Renew(KeyCPUs, 1, Origin{}); !reflect.DeepEqual(got, e) {
		t.Errorf("a key nobody decided is renewed: %+v", got)
	}
	if p, _ := second.Lookup(KeyPIDs); p.Value != 7 {
		t.Errorf("another key changed: %+v", p)
	}
}
