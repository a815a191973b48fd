#include "kernels/optimizer.h"

enum status grad_norm_cpu(double *sum, struct tensor g, struct stream *s)
{
    return grad_norm_ref(sum, g, s);
}

enum status adamw_cpu(struct tensor w, struct tensor m, struct tensor v, struct tensor g,
                      const struct adamw_segment *segment, int n_segments,
                      const struct adamw_options *o, struct stream *s)
{
    return adamw_ref(w, m, v, g, segment, n_segments, o, s);
}
