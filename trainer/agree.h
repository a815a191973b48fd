/* One answer for all ranks: the worst. */
#ifndef TRAINER_AGREE_H
#define TRAINER_AGREE_H

#include "cluster/comm.h"

/* Collective. The greatest status any rank brings; who brought it has said why. All go on, or none.
 */
enum status agree_worst(struct comm *c, enum status mine) MUST_CHECK;

#endif
