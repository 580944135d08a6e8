package foresight

import (
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

const mib = 1 << 20

// inflatable is a container whose predicted limit of 100 MiB is somewhere now.
func inflatable(limit policy.Value) api.Decision {
	d := decided(policy.Claim{Key: policy.KeyMemory, Value: limit * mib, Origin: policy.Origin{Author: policy.Prediction}})
	d.Airbag = &api.Airbag{Predicted: 100 * mib, Ceiling: 1024 * mib}
	return d
}

func need(n int64) workload.Usage { return workload.Usage{MemoryNeed: n * mib} }

func TestLimiterLowersAfterCalm(t *testing.T) {
	l := &Limiter{Calm: time.Minute, Relax: time.Minute}
	var none evidence.Findings
	if r := l.Limit(inflatable(400), need(300), none, quiet, clock); len(r.Set) > 0 || r.Held != nil {
		t.Errorf("at first: %+v", r)
	}
	l.Limit(inflatable(400), need(20), none, quiet, clock.Add(time.Minute))
	r := l.Limit(inflatable(400), need(20), none, quiet, clock.Add(2*time.Minute))
	if r.Set["memory"] != "104857600" || r.Held != nil || !strings.HasPrefix(r.Reason, "calm: ") {
		t.Errorf("after calm: %+v", r)
	}
	operators := inflatable(400)
	operators.Effective = policy.Merge(policy.Input{Claims: []policy.Claim{{Key: policy.KeyMemory, Value: 400 * mib, Origin: policy.Origin{Author: policy.Operator}}}})
	without := inflatable(400)
	without.Airbag = nil
	for _, d := range []api.Decision{operators, without} {
		if r := l.Limit(d, need(20), none, attacked, clock.Add(time.Hour)); len(r.Set) > 0 || r.Held != nil {
			t.Errorf("%+v", r)
		}
	}
	l.Forget("r")
	if len(l.runs) > 0 {
		t.Error("not forgotten")
	}
}

func TestLimiterRaisesForAForecast(t *testing.T) {
	l := &Limiter{Calm: time.Hour, Relax: time.Minute}
	f := evidence.Findings{Forecasts: []evidence.Forecast{
		{Resource: "pids", Probability: 1, TimeToLimit: time.Second, Slope: 1e9},
		{Resource: "memory", Probability: 0.9, TimeToLimit: 20 * time.Second, Slope: mib},
	}}
	l.Limit(inflatable(100), need(60), evidence.Findings{}, quiet, clock)
	r := l.Limit(inflatable(100), need(70), f, quiet, clock.Add(10*time.Second))
	if r.Set["memory"] != "266338304" || !strings.HasPrefix(r.Reason, "forecast: 70 MiB in use, growing by 1 MiB/s, would reach the limit of 100 MiB in 20s") {
		t.Errorf("%+v", r)
	}
	r = l.Limit(inflatable(100), need(80), f, attacked, clock.Add(20*time.Second))
	if len(r.Set) > 0 || r.Held == nil || !strings.Contains(*r.Held, "the risk is critical") {
		t.Errorf("an attack: %+v", r)
	}
}

// Growth is an anomaly as soon as the risk is high, and is none once it has not been for a while.
func TestLimiterHoldsAndRelaxes(t *testing.T) {
	l := &Limiter{Calm: time.Hour, Relax: time.Minute}
	var none evidence.Findings
	d := inflatable(100)
	r := l.Limit(d, need(60), none, attacked, clock)
	if r.Held == nil || !strings.Contains(r.Reason, "growth of memory is held: the risk is critical") || r.Again <= 0 || r.Again > time.Minute {
		t.Fatalf("%+v", r)
	}
	d.Airbag.Held = *r.Held
	for _, after := range []time.Duration{time.Second, 30 * time.Second} {
		if r := l.Limit(d, need(60), none, attacked, clock.Add(after)); r.Held != nil || r.Again <= 0 {
			t.Errorf("still high: %+v", r)
		}
	}
	if r := l.Limit(d, need(60), none, quiet, clock.Add(89*time.Second)); r.Held != nil || r.Again <= 0 {
		t.Errorf("not calm yet: %+v", r)
	}
	if r := l.Limit(d, need(60), none, quiet, clock.Add(90*time.Second)); r.Held == nil || *r.Held != "" || r.Reason == "" || r.Again != 0 {
		t.Errorf("calm: %+v", r)
	}
	anew := &Limiter{Calm: time.Hour, Relax: time.Minute} // of the next daemon
	if r := anew.Limit(d, need(60), none, quiet, clock); r.Held != nil || r.Again <= 0 {
		t.Errorf("a new daemon: %+v", r)
	}
	if r := anew.Limit(d, need(60), none, quiet, clock.Add(time.Minute)); r.Held == nil || *r.Held != "" {
		t.Errorf("a new daemon, after calm: %+v", r)
	}
}
