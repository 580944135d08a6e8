package rewrite

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

const denyAll = `{"allow":false,"access":"rwm"}`

func deviceSpec(t testing.TB, rules string) *specs.Spec {
	t.Helper()
	return parse[specs.Spec](t, `{"linux":{"resources":{"devices":[`+rules+`]}}}`)
}

func TestDeviceClaims(t *testing.T) {
	for rules, want := range map[string]map[string]string{
		denyAll: {},
		denyAll + `,{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},{"allow":true,"type":"c","access":"m"}`:                         {"c:1:3": "rwm"},
		denyAll + `,{"allow":true,"type":"u","major":1,"minor":11,"access":"w"},{"allow":true,"type":"b","major":8,"access":"rm"}`:               {"c:1:11": "rw", "b:8:*": "r"},
		denyAll + `,{"allow":true,"type":"c","major":1,"minor":11,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":11,"access":"wm"}`: {"c:1:11": "r"},
		`{"allow":true},{"allow":false,"type":"b","major":8,"access":"rwm"}`:                                                                     {"c:*:*": "rwm", "b:*:*": "rwm", "b:8:*": "none"},
		`{"allow":true,"type":"p","major":1,"minor":1,"access":"r"}`:                                                                             {},
		`{"allow":true,"type":"a"},` + denyAll:                                                                                                   {},
	} {
		got := make(map[string]string)
		for _, c := range Claims(deviceSpec(t, rules), false) {
			if family, name := c.Key.Family(); family == policy.KeyDevices {
				got[name] = c.Key.Format(c.Value)
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s:\n got %v\nwant %v", rules, got, want)
		}
	}
}

func TestDevicesThatCannotBeKept(t *testing.T) {
	spec := deviceSpec(t, denyAll+`,{"allow":true,"type":"c","major":1,"access":"rw"}`)
	for _, word := range []string{"none", "r"} {
		err := Apply(spec, Input{Effective: decided(t, map[string]string{"devices/c:1:3": word})})
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "all of c:1:*") {
			t.Errorf("%s: %v", word, err)
		}
	}
	if err := Apply(spec, Input{Effective: decided(t, map[string]string{"devices/c:1:3": "none", "devices/c:1:*": "none"})}); err != nil {
		t.Error(err)
	}
	if err := Apply(spec, Input{Effective: decided(t, map[string]string{"devices/x": "none"})}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a device that is none: %v", err)
	}
	but := `{"allow":true},{"allow":false,"type":"b","major":8,"access":"rwm"}`
	err := Apply(deviceSpec(t, but), Input{Effective: decided(t, map[string]string{"devices/b:8:1": "rw"})})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "device b:8:1 cannot be given to a container that is denied all of b:8:*") {
		t.Errorf("out of what is denied: %v", err)
	}
	asked := deviceSpec(t, but+`,{"allow":true,"type":"b","major":8,"minor":1,"access":"rwm"}`)
	if err := Apply(asked, Input{Effective: policy.Merge(policy.Input{Claims: Claims(asked, false)})}); err != nil {
		t.Errorf("what a spec asks for is not refused: %v", err)
	}
	all := deviceSpec(t, `{"allow":true}`) // exceptions are what such a list is made of
	if err := Apply(all, Input{Effective: decided(t, map[string]string{"devices/c:1:3": "none"})}); err != nil || len(all.Linux.Resources.Devices) != 2 {
		t.Errorf("%v %s", err, text(t, all))
	}
	bare := new(specs.Spec)
	if err := Apply(bare, Input{Effective: decided(t, map[string]string{"devices/c:1:3": "r"})}); err != nil || len(bare.Linux.Resources.Devices) != 1 {
		t.Errorf("a spec without devices: %v %s", err, text(t, bare))
	}
	if err := Apply(new(specs.Spec), Input{Effective: decided(t, map[string]string{"devices/c:1:3": "none"})}); err != nil {
		t.Errorf("what is closed anyway: %v", err)
	}
}

func TestDeviceAccess(t *testing.T) {
	spec := deviceSpec(t, denyAll+`,{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}`)
	created, got, err := DeviceAccess(spec, decided(t, map[string]string{"devices/c:1:3": "r", "devices/b:8:*": "rw", "devices/c:10:229": "none"}))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"c:1:3": "r", "b:8:*": "rw", "c:10:229": "", "c:1:5": "rwm", "c:*:*": "m"} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if created["c:1:3"] != "rwm" || created["c:10:229"] != "rw" || created["b:8:*"] != "" {
		t.Errorf("created %v", created)
	}
	if _, _, err := DeviceAccess(new(specs.Spec), decided(t, map[string]string{"devices/c:136:4": "none"})); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a terminal of all: %v", err)
	}
}

func FuzzDevices(f *testing.F) {
	f.Add(denyAll+`,{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}`, "c:1:3", uint8(1))
	f.Add(`{"allow":true},{"allow":false,"type":"b","major":8,"access":"w"}`, "b:8:*", uint8(0))
	f.Add(`{"allow":true},{"allow":false,"type":"b","major":8,"access":"x"}`, "b:88:*", uint8(7))
	f.Add(`{"allow":false,"type":"c","major":1,"minor":7}`, "c:1:7", uint8(0))
	f.Fuzz(func(t *testing.T, rules, name string, value uint8) {
		var spec specs.Spec
		if json.Unmarshal([]byte(`{"linux":{"resources":{"devices":[`+rules+`]}}}`), &spec) != nil || spec.Linux == nil || spec.Linux.Resources == nil {
			return
		}
		before := text(t, spec)
		if err := devices(&spec, Input{Effective: policy.Merge(policy.Input{Claims: Claims(&spec, false)})}); err == nil && text(t, spec) != before {
			t.Errorf("what a spec asks for changes it: %s -> %s", before, text(t, spec))
		}
		d, err := policy.ParseDevice(name)
		if err != nil {
			return
		}
		key := policy.KeyDevices.Member(d.String())
		claims := append(Claims(&spec, false), policy.Claim{Key: key, Value: policy.Value(value % 4), Origin: policy.Origin{Author: policy.Operator}})
		in := Input{Effective: policy.Merge(policy.Input{Claims: claims})}
		if devices(&spec, in) != nil {
			return
		}
		once := text(t, spec)
		if err := devices(&spec, in); err != nil || text(t, spec) != once {
			t.Errorf("applied twice: %s -> %s, %v", once, text(t, spec), err)
		}
		if alwaysOpen[d.String()] == "rwm" {
			return // no rule opens or closes it
		}
		access, all := deviceAccess(spec.Linux.Resources.Devices)
		if v, ok := deviceValue(entry(access, all, d.String())); ok && v != policy.Value(value%4) {
			t.Errorf("%s is %d, want %d: %s", d, v, value%4, once)
		}
	})
}

// runc opens /dev/zero and its like for every container: a list with less does not close them, and neither does its claim.
func TestDevicesThatAreAlwaysOpen(t *testing.T) {
	one, five := int64(1), int64(5)
	spec := &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
		{Access: "rwm"}, {Allow: true, Type: "c", Major: &one, Minor: &five, Access: "r"},
	}}}}
	eff := policy.Merge(policy.Input{Claims: Claims(spec, false)})
	if v := eff.Value(policy.KeyDevices.Member("c:1:5"), -1); v != policy.DeviceAll {
		t.Errorf("claimed as %s", policy.KeyDevices.Format(v))
	}
	if err := devices(spec, Input{Effective: eff}); err != nil {
		t.Fatal(err)
	}
	created, decided, err := DeviceAccess(spec, eff)
	if err != nil || created["c:1:5"] != "rwm" || decided["c:1:5"] != "rwm" {
		t.Errorf("created %q, decided %q, %v", created["c:1:5"], decided["c:1:5"], err)
	}
}
