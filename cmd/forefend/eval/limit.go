package eval

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/predictor/forecast"
)

// limitResult is the JSON of `forefend eval limit`.
type limitResult struct {
	Runs        int                `json:"runs"`
	Forecasts   int                `json:"forecasts"`
	BaseRate    float64            `json:"base_rate"` // share of forecasts after which the limit was reached within the horizon
	Horizon     float64            `json:"horizon_seconds"`
	Brier       float64            `json:"brier"` // mean squared error of the probability
	Better      float64            `json:"better_than_persistence"`
	Reached     int                `json:"reached"`      // pairs of run and limit that ended at the limit
	Warned      int                `json:"warned"`       // of those, with a probability of at least a half before
	Lead        float64            `json:"lead_seconds"` // median time between that warning and the limit, 0 where there was none
	FalseAlarms int                `json:"false_alarms"` // warned pairs that did not reach the limit within the horizon after
	Baselines   map[string]float64 `json:"baselines"`    // Brier scores
}

const (
	limitWarmUp = 20 // seconds of a run before it is forecast
	limitEvery  = 5  // seconds between forecasts
)

// limitShares are the limits that a run is judged against, as shares of its highest value: some are reached on the way up
// if it grows, the others never.
var limitShares = []float64{0.5, 0.7, 0.9, 1.05, 1.3, 2}

func limitCommand() *cobra.Command {
	var data string
	var out format
	cmd := &cobra.Command{
		Use:   "limit",
		Short: "Judge how well a container's reaching of its limit is foretold, on recorded runs",
		Long: `Replay recorded memory of real servers (run,seconds,memory in bytes) and ask, every five seconds
and for several limits, how likely the limit is to be reached within the forecaster's horizon.
Persistence says that nothing changes: never; trend continues the straight line of the last
horizon. Lead is from the first warning (probability of a half or more) that held until the
limit was reached.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := openText(data)
			if err != nil {
				return fmt.Errorf("open recorded runs: %w", err)
			}
			defer f.Close()
			runs, err := readLimitRuns(f)
			if err != nil {
				return fmt.Errorf("read %s: %w", data, err)
			}
			r := judgeLimit(runs)
			return out.print(cmd.OutOrStdout(), r, r.text)
		},
	}
	needed(cmd, &data, "data", "file with recorded runs")
	out.flags(cmd)
	return cmd
}

// readRuns reads run, seconds, memory; times are kept in milliseconds.
func readLimitRuns(r io.Reader) ([]usageSeries, error) {
	var c collector
	err := table(r, func(field func(string) string) {
		at, err := strconv.ParseFloat(field("seconds"), 64)
		v, ok := number(field("memory"))
		if err == nil && ok && at >= 0 && at < 1e9 {
			c.add(field("run"), 0, int64(at*1000), v)
		}
	})
	if err != nil {
		return nil, err
	}
	return c.done("runs")
}

// foretold is one forecast with what came of it.
type foretold struct {
	p, trend float64
	reached  bool
}

func judgeLimit(runs []usageSeries) limitResult {
	model := forecast.New(forecast.Config{})
	horizon := model.Horizon()
	r := limitResult{Runs: len(runs), Horizon: horizon.Seconds(), Baselines: make(map[string]float64)}
	var all []foretold
	var leads []float64
	for _, run := range runs {
		top := slices.MaxFunc(run.samples, func(a, b usageSample) int { return int(a.value - b.value) }).value
		for _, share := range limitShares {
			f, hit, lead, alarm := followLimit(model.Track("memory", 0), run.samples, top*share, horizon)
			all = append(all, f...)
			if hit && len(f) > 0 {
				r.Reached++
				leads = append(leads, lead)
				if lead > 0 {
					r.Warned++
				}
			} else if alarm {
				r.FalseAlarms++
			}
		}
	}
	scoreLimit(&r, all)
	if len(leads) > 0 {
		slices.Sort(leads)
		r.Lead = leads[len(leads)/2]
	}
	return r
}

func scoreLimit(r *limitResult, all []foretold) {
	n := float64(max(1, len(all)))
	for _, f := range all {
		y := 0.0
		if f.reached {
			y = 1
		}
		r.BaseRate += y / n
		r.Brier += (f.p - y) * (f.p - y) / n
		r.Baselines["persistence"] += y / n // (0 - y)²
		r.Baselines["trend"] += (f.trend - y) * (f.trend - y) / n
	}
	r.Forecasts = len(all)
	if p := r.Baselines["persistence"]; p > 0 {
		r.Better = 1 - r.Brier/p
	}
}

// followLimit asks a track along a run until the limit is reached or too little is left to know the answer. lead is the
// seconds between the warning that held and the limit, alarm tells whether there was any warning.
func followLimit(t *forecast.Track, samples []usageSample, limit float64, horizon time.Duration) (all []foretold, hit bool, lead float64, alarm bool) {
	hitAt := slices.IndexFunc(samples, func(s usageSample) bool { return s.value >= limit })
	end := samples[len(samples)-1].at
	next, since := int64(limitWarmUp*1000), int64(-1)
	for i, s := range samples {
		if i == hitAt {
			if since >= 0 {
				lead = float64(s.at-since) / 1000
			}
			return all, true, lead, alarm
		}
		at := time.UnixMilli(s.at)
		t.Add(at, s.value)
		if s.at < next || hitAt < 0 && s.at+horizon.Milliseconds() > end {
			continue
		}
		next = s.at + limitEvery*1000
		f := foretold{p: t.Forecast(at, limit).Probability, trend: trendReaches(samples[:i+1], limit, horizon)}
		f.reached = hitAt >= 0 && samples[hitAt].at-s.at <= horizon.Milliseconds()
		all = append(all, f)
		switch {
		case f.p < 0.5:
			since = -1
		case since < 0:
			since = s.at
		}
		alarm = alarm || f.p >= 0.5
	}
	return all, false, 0, alarm
}

// trendReaches continues the line from the sample one horizon ago, or the first, to the newest.
func trendReaches(past []usageSample, limit float64, horizon time.Duration) float64 {
	last := past[len(past)-1]
	from := past[0]
	for _, s := range past {
		if last.at-s.at <= horizon.Milliseconds() {
			from = s
			break
		}
	}
	if last.at == from.at {
		return 0
	}
	slope := (last.value - from.value) / float64(last.at-from.at)
	if last.value+slope*float64(horizon.Milliseconds()) >= limit {
		return 1
	}
	return 0
}

func (r limitResult) text(w io.Writer) error {
	fmt.Fprintf(w, "%d runs, %d forecasts of %.0f s, limit reached after %.1f %%\n", r.Runs, r.Forecasts, r.Horizon, 100*r.BaseRate)
	fmt.Fprintf(w, "Brier score  forefend %.4f  persistence %.4f  trend %.4f: %.0f %% better than persistence\n",
		r.Brier, r.Baselines["persistence"], r.Baselines["trend"], 100*r.Better)
	fmt.Fprintf(w, "lead  median %.0f s, warned of %d of %d limits reached, %d false alarms\n", r.Lead, r.Warned, r.Reached, r.FalseAlarms)
	return nil
}
