// Message passing, CPU twin of edge_conv.cu; contract in kernels.hpp. Compiled once a SIMD level.
// Layout: terms (atoms, 2C) and table (rows, 2C) row-major; nothing of edges x channels but a block of derivatives.
// Ownership: forward, a task owns rows of atoms; derivatives, a task owns whole crystals and a table of its own.
// Determinism: sums run in edge order, over a fixed number of parts; threads change nothing.
// Bound: per edge and channel 2 span + 2 + K multiply-adds (K scales an edge) and some 50 operations of the gate,
// against 8 bytes of source term from the second cache: the arithmetic is the bound.

#include "kernels/edge_scales.hpp"
#include "kernels/edge_scatter.hpp"
#include "kernels/edge_terms.hpp"
#include "math/gate.hpp"
#include "runtime/threads.hpp"

namespace screening::SCREENING_LEVEL {
namespace {

constexpr std::int64_t kRowBlock = 64, kWaiting = 32;

// Calls body(edge, pack, column, message) for edges [begin, end) into atom i.
template <class T, int Span, class Body>
void for_each_message(const EdgeTerms<T>& terms, std::int64_t i, std::int64_t begin, std::int64_t end,
                      const Body& body) {
  const T* centre = row_of(terms.centre, i);
  for (std::int64_t e = begin; e < end; ++e) {
    const Preactivation<T, Span> a(terms, e, centre);
    for_each_pack<T>(terms.channels(), [&](auto pack, std::int64_t c) {
      using V = decltype(pack);
      body(e, c, gate(a.template at<V>(c), a.template at<V>(terms.channels() + c)));
    });
  }
}

// With one scale, messages are added as they come. With several, some wait in `messages`, (kWaiting, C), so that the
// sums of a pack of channels stay in registers: stored and loaded for each edge they took half as long as the gates.
template <class T, int Span, int Scales>
void convolve_row(const EdgeTerms<T>& terms, const View<const T>& scale, std::int64_t i, T* messages, T* result) {
  const std::int64_t channels = terms.channels(), last = terms.graph.edge_offsets[i + 1];
  std::fill_n(result, scale.shape[1] * channels, T{});
  for (std::int64_t begin = terms.graph.edge_offsets[i]; begin < last; begin += kWaiting) {
    const std::int64_t end = std::min(last, begin + kWaiting);
    for_each_message<T, Span>(terms, i, begin, end, [&]<class V>(std::int64_t e, std::int64_t c, V message) {
      if constexpr (Scales == 1) {
        add_pack<V>(result + c, *row_of(scale, e) * message);
      } else {
        store_pack<V>(messages + (e - begin) * channels + c, message);
      }
    });
    if constexpr (Scales != 1) {
      add_scaled<T, Scales>(messages, channels, scale, begin, end, result);
    }
  }
}

template <class T, int Span, int Scales>
void backward(const EdgeTerms<T>& terms, const View<const T>& scale, const View<const T>& grad,
              const EdgeTermsOf<T>& out, int threads) {
  const std::int64_t channels = terms.channels();
  const bool of_scale = out.scale.rows() > 0;
  scatter_edges<T>(terms, out, nullptr, threads, [&](std::int64_t i, std::int64_t, std::int64_t e, T* row, T*) {
    const Preactivation<T, Span> a(terms, e, row_of(terms.centre, i));
    const EdgeScales<T, Scales> scales(scale, e, channels);
    const T* upstream = row_of(grad, i);
    ScaleSums<T, Scales> sums(scales);
    for_each_pack<T>(channels, [&](auto pack, std::int64_t c) {
      using V = decltype(pack);
      const GateSlope<V> slope = gate_slope(a.template at<V>(c), a.template at<V>(channels + c));
      const V g = scales.template blend<V>(upstream, c);
      store_pack<V>(row + c, g * slope.x);
      store_pack<V>(row + channels + c, g * slope.y);
      if (of_scale) {
        sums.template add<V>(upstream, c, slope.h);
      }
    });
    if (of_scale) {
      sums.store(row_of(out.scale, e));
    }
  });
}

// With d = the change of a_e along the direction and t those of the scales, each edge and channel adds
//   sum over k of g[k] (scale[k] (h_x d_x + h_y d_y) + t[k] h)
// to the sum that is derived here.
template <class T, int Span, int Scales>
void curve(const EdgeTerms<T>& terms, const View<const T>& scale, const View<const T>& grad,
           const EdgeTermsOf<const T>& direction, const View<T>& out_grad, const EdgeTermsOf<T>& out, int threads) {
  const std::int64_t channels = terms.channels();
  EdgeTerms<T> along = terms;
  along.centre = direction.centre;
  along.source = direction.source;
  along.table = direction.table;
  EdgeTerms<T> reweighted = terms;
  reweighted.weight = direction.weight;
  const bool weights_move = direction.weight.rows() > 0, scales_move = direction.scale.rows() > 0;
  const SecondPath<T> path{direction.weight, direction.table};
  std::fill(out_grad.data, out_grad.data + out_grad.rows() * out_grad.shape[1], T{});
  scatter_edges<T>(terms, out, &path, threads, [&](std::int64_t i, std::int64_t, std::int64_t e, T* row, T* second) {
    const Preactivation<T, Span> a(terms, e, row_of(terms.centre, i));
    const Preactivation<T, Span> d(along, e, row_of(along.centre, i));
    const RadialTerm<T, Span> moved(weights_move ? reweighted : terms, e);
    const EdgeScales<T, Scales> scales(scale, e, channels);
    const EdgeScales<T, Scales> turn(scales_move ? direction.scale : scale, e, channels);
    const T* upstream = row_of(grad, i);
    const auto change = [&]<class V>(V, std::int64_t c) {
      const V along_terms = d.template at<V>(c);
      return weights_move ? moved.template add_to<V>(along_terms, a.rows(), c) : along_terms;
    };
    ScaleSums<T, Scales> sums(scales);
    for_each_pack<T>(channels, [&](auto pack, std::int64_t c) {
      using V = decltype(pack);
      const GateCurve<V> h = gate_curve(a.template at<V>(c), a.template at<V>(channels + c));
      const V dx = change(V{}, c), dy = change(V{}, channels + c);
      const V along_gate = h.x * dx + h.y * dy;
      const V g = scales.template blend<V>(upstream, c);
      const V turned = scales_move ? turn.template blend<V>(upstream, c) : V{};
      const V message = scales_move ? h.h : V{};
      scales.for_each([&](auto k) {
        add_pack<V>(row_of(out_grad, i) + k * channels + c, scales[k] * along_gate + turn[k] * message);
      });
      store_pack<V>(row + c, g * (h.xx * dx + h.xy * dy) + turned * h.x);
      store_pack<V>(row + channels + c, g * (h.xy * dx + h.yy * dy) + turned * h.y);
      store_pack<V>(second + c, g * h.x);
      store_pack<V>(second + channels + c, g * h.y);
      sums.template add<V>(upstream, c, along_gate);
    });
    if (out.scale.rows() > 0) {
      sums.store(row_of(out.scale, e));
    }
  });
}

}  // namespace

template <class T>
void edge_conv(const EdgeTerms<T>& terms, View<const T> scale, View<T> result, int threads) {
  with_sizes(terms.span(), scale.shape[1], [&](auto span, auto scales) {
    for_each_task((terms.graph.atoms() + kRowBlock - 1) / kRowBlock, threads, [&](std::int64_t block, int) {
      const std::int64_t end = std::min(terms.graph.atoms(), (block + 1) * kRowBlock);
      std::vector<T> messages(decltype(scales)::value == 1 ? 0 : static_cast<std::size_t>(kWaiting * terms.channels()));
      for (std::int64_t i = block * kRowBlock; i < end; ++i) {
        convolve_row<T, decltype(span)::value, decltype(scales)::value>(terms, scale, i, messages.data(),
                                                                        row_of(result, i));
      }
    });
  });
}

template <class T>
void edge_conv_backward(const EdgeTerms<T>& terms, View<const T> scale, View<const T> grad, const EdgeTermsOf<T>& out,
                        int threads) {
  with_sizes(terms.span(), scale.shape[1], [&](auto span, auto scales) {
    backward<T, decltype(span)::value, decltype(scales)::value>(terms, scale, grad, out, threads);
  });
}

template <class T>
void edge_conv_curve(const EdgeTerms<T>& terms, View<const T> scale, View<const T> grad,
                     const EdgeTermsOf<const T>& direction, View<T> out_grad, const EdgeTermsOf<T>& out, int threads) {
  with_sizes(terms.span(), scale.shape[1], [&](auto span, auto scales) {
    curve<T, decltype(span)::value, decltype(scales)::value>(terms, scale, grad, direction, out_grad, out, threads);
  });
}

#define SCREENING_FOR(T)                                                                                              \
  template void edge_conv<T>(const EdgeTerms<T>&, View<const T>, View<T>, int);                                       \
  template void edge_conv_backward<T>(const EdgeTerms<T>&, View<const T>, View<const T>, const EdgeTermsOf<T>&, int); \
  template void edge_conv_curve<T>(const EdgeTerms<T>&, View<const T>, View<const T>, const EdgeTermsOf<const T>&,    \
                                   View<T>, const EdgeTermsOf<T>&, int);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening::SCREENING_LEVEL
