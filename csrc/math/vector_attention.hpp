// What an equivariant transformer hears over an edge, one channel at a time, and its slopes. Host packs, and single
// values on the device: see gate.hpp. Second derivatives are the first of dual numbers, so nothing is written twice.
#pragma once

#include "math/gated_mean.hpp"

namespace screening::SCREENING_LEVEL {

// A value and how it changes along a direction.
template <class V>
struct Dual {
  V value, turned;
};

template <class A, class B>
SCREENING_HD Dual<A> operator*(const Dual<A>& a, const Dual<B>& b) {
  return {a.value * b.value, a.turned * b.value + a.value * b.turned};
}
template <class A, class B>
SCREENING_HD Dual<A> operator*(const Dual<A>& a, const B& b) {
  return {a.value * b, a.turned * b};
}
template <class A>
SCREENING_HD Dual<A> operator+(const Dual<A>& a, const Dual<A>& b) {
  return {a.value + b.value, a.turned + b.turned};
}

// A fixed number g times what may move.
template <class V, class S>
SCREENING_HD V times(V g, S s) {
  return g * s;
}
template <class V, class S>
SCREENING_HD Dual<V> times(V g, const Dual<S>& s) {
  return {g * s.value, g * s.turned};
}

// What a derivative gives of a number: itself, or how it changes.
template <class V>
SCREENING_HD V outcome(const V& number) {
  return number;
}
template <class V>
SCREENING_HD V outcome(const Dual<V>& number) {
  return number.turned;
}

// silu(a) = a sigmoid(a), and its slope.
template <class N>
struct Silu {
  N value, slope;
};

template <class V>
SCREENING_HD Silu<V> silu_of(const V& a) {
  const V e = exponential(-a), s = reciprocal(1 + e), rest = e * s;
  return {a * s, s * (1 + a * rest)};
}
template <class V>
SCREENING_HD Silu<Dual<V>> silu_of(const Dual<V>& a) {
  const V e = exponential(-a.value), s = reciprocal(1 + e), rest = e * s;
  const V slope = s * (1 + a.value * rest), second = s * rest * (2 + a.value * (rest - s));
  return {{a.value * s, slope * a.turned}, {slope, second * a.turned}};
}

// A channel of an edge from j into i: the query of i, the rest of j, and the filters of the distance.
template <class N>
struct Heard {
  N query, key, value[3], vector[3], filter[4];
};

// Four numbers a channel: of a message, or what comes from above.
template <class N>
struct Message {
  N plain, along[3];
};

// What the channel adds to the score of its head.
template <class N>
SCREENING_HD N score_of(const Heard<N>& at) {
  return at.query * at.key * at.filter[0];
}

// `scale` (4) and the weight `alpha` belong to the edge, and the edge and head; S is a number, or a dual one, as N is.
template <class N, class S>
SCREENING_HD Message<N> message_of(const Heard<N>& at, const S* scale, const S& alpha) {
  const N carried = at.value[1] * at.filter[2] * scale[0], pointed = at.value[2] * at.filter[3];
  return {at.value[0] * at.filter[1] * (scale[0] * alpha),
          {carried * at.vector[0] + pointed * scale[1], carried * at.vector[1] + pointed * scale[2],
           carried * at.vector[2] + pointed * scale[3]}};
}

// Derivative of grad . message with respect to alpha, what the channel adds to it.
template <class N, class S, class V>
SCREENING_HD N of_alpha(const Heard<N>& at, const S& envelope, const V& grad) {
  return at.value[0] * at.filter[1] * envelope * grad;
}

// Derivatives of grad . message with respect to all a channel is made of, and what it adds to those of the scale.
template <class N>
struct HeardSlopes {
  Heard<N> of;
  N scale[4];
};

// `of_score` is the derivative with respect to the score of the head.
template <class N, class S, class V>
SCREENING_HD HeardSlopes<N> slopes_of(const Heard<N>& at, const S* scale, const S& alpha, const S& of_score,
                                      const Message<V>& grad) {
  const N turned = at.vector[0] * grad.along[0] + at.vector[1] * grad.along[1] + at.vector[2] * grad.along[2];
  const N pointed = times(grad.along[0], scale[1]) + times(grad.along[1], scale[2]) + times(grad.along[2], scale[3]);
  const N weighed = times(grad.plain, scale[0] * alpha), opened = turned * scale[0];
  const N carried = at.value[1] * at.filter[2], reached = carried * scale[0], aimed = at.value[2] * at.filter[3];
  return {{at.key * at.filter[0] * of_score,
           at.query * at.filter[0] * of_score,
           {at.filter[1] * weighed, at.filter[2] * opened, at.filter[3] * pointed},
           {reached * grad.along[0], reached * grad.along[1], reached * grad.along[2]},
           {at.query * at.key * of_score, at.value[0] * weighed, at.value[1] * opened, at.value[2] * pointed}},
          {at.value[0] * at.filter[1] * alpha * grad.plain + carried * turned, aimed * grad.along[0],
           aimed * grad.along[1], aimed * grad.along[2]}};
}

}  // namespace screening::SCREENING_LEVEL
