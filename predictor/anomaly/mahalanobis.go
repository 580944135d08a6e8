package anomaly

import (
	"math"

	"gonum.org/v1/gonum/mat"
)

// mahalanobis measures how far a vector of counts is from those it has seen, along the directions in which they did not vary.
type mahalanobis struct {
	dims    int
	n       float64
	mean    []float64
	moment  *mat.SymDense
	inverse *mat.Cholesky
}

func newMahalanobis(dims int) *mahalanobis {
	m := &mahalanobis{dims: dims, mean: make([]float64, dims)}
	if dims > 0 {
		m.moment = mat.NewSymDense(dims, nil)
	}
	return m
}

func (m *mahalanobis) add(x []float64) {
	m.n++
	for i, v := range x {
		m.mean[i] += v
		if v == 0 {
			continue
		}
		for j := i; j < m.dims; j++ {
			if x[j] != 0 {
				m.moment.SetSym(i, j, m.moment.At(i, j)+v*x[j])
			}
		}
	}
}

// finish turns moments into the inverse covariance. noise is a variance that every count has at least: requests are cut by
// the borders of time, so that counts that belong together differ by a few.
func (m *mahalanobis) finish(noise float64) {
	if m.dims == 0 || m.n < 2 {
		return
	}
	for i := range m.mean {
		m.mean[i] /= m.n
	}
	c := mat.NewSymDense(m.dims, nil)
	for i := range m.dims {
		for j := i; j < m.dims; j++ {
			v := m.moment.At(i, j)/m.n - m.mean[i]*m.mean[j]
			if i == j {
				v = max(v, 0) + noise + 1e-6*m.moment.At(i, i)/m.n
			}
			c.SetSym(i, j, v)
		}
	}
	var chol mat.Cholesky
	if chol.Factorize(c) {
		m.inverse = &chol
	}
	m.moment = nil
}

// distance returns the distance of x, per square root of the number of dimensions.
func (m *mahalanobis) distance(x []float64) float64 {
	if m.inverse == nil {
		return 0
	}
	d := mat.NewVecDense(m.dims, nil)
	for i, v := range x {
		d.SetVec(i, v-m.mean[i])
	}
	var solved mat.VecDense
	if err := m.inverse.SolveVecTo(&solved, d); err != nil {
		return 0
	}
	q := mat.Dot(d, &solved)
	if math.IsNaN(q) || q < 0 {
		return 0
	}
	return math.Sqrt(q / float64(m.dims))
}
