package eval

import (
	"fmt"
	"io"

	"forefend.dev/forefend/predictor/exploited"
)

// readRisk reads one file of `eval risk`, kind being what it is to hold.
func readRisk[T any](file, kind string, read func(io.Reader) (T, error)) (T, error) {
	var none T
	in, err := openData(file)
	if err != nil {
		return none, err
	}
	defer in.Close()
	out, err := read(in)
	if err != nil {
		return none, fmt.Errorf("%s %s: %w", kind, file, err)
	}
	return out, nil
}

func readFeatures(file string) ([]exploited.Vulnerability, error) {
	return readRisk(file, "features", exploited.ReadTable)
}

func readLabels(file string) (map[string]bool, error) {
	return readRisk(file, "labels", exploited.ReadList)
}
