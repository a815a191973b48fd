/* What a warp does together. Each lane leaves its operands; the last of the mask works for all. */
#include "tests/emu/machine.h"

namespace emu
{

struct shuffle_operands {
    unsigned value;
    int source, width;
};

struct matrix_operands {
    uint32_t *r;
    const char *row;
    int n_matrices;
    uint32_t pc;
};

struct multiply_operands {
    float *d;
    const uint32_t *a, *b;
};

static void unpack(uint32_t pair, float *low, float *high)
{
    const uint32_t l = pair << 16, h = pair & 0xFFFF0000u;

    memcpy(low, &l, 4);
    memcpy(high, &h, 4);
}

/* d (16,8) += a (16,16) b (16,8): PTX ISA, matrix fragments of mma.m16n8k16 with .bf16 */
__attribute__((target_clones("arch=haswell", "default"))) static void multiply(void **operands)
{
    float a[16][16], b[16][8], c[16][8];

    for (int lane = 0; lane < LANES; lane++) {
        const multiply_operands *p = (multiply_operands *)operands[lane];
        const int row = lane >> 2, col = (lane & 3) * 2;

        unpack(p->a[0], &a[row][col], &a[row][col + 1]);
        unpack(p->a[1], &a[row + 8][col], &a[row + 8][col + 1]);
        unpack(p->a[2], &a[row][col + 8], &a[row][col + 9]);
        unpack(p->a[3], &a[row + 8][col + 8], &a[row + 8][col + 9]);
        unpack(p->b[0], &b[col][row], &b[col + 1][row]);
        unpack(p->b[1], &b[col + 8][row], &b[col + 9][row]);
        c[row][col] = p->d[0];
        c[row][col + 1] = p->d[1];
        c[row + 8][col] = p->d[2];
        c[row + 8][col + 1] = p->d[3];
    }
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++) c[i][j] += a[i][k] * b[k][j];
    for (int lane = 0; lane < LANES; lane++) {
        const multiply_operands *p = (multiply_operands *)operands[lane];
        const int row = lane >> 2, col = (lane & 3) * 2;

        p->d[0] = c[row][col];
        p->d[1] = c[row][col + 1];
        p->d[2] = c[row + 8][col];
        p->d[3] = c[row + 8][col + 1];
    }
}

/* Lane 8 i + k holds the address of row k of matrix i; of each 8×8 matrix lane l gets elements
 * (l/4, 2(l%4)) and the next of the row, or of the column when transposed. */
static void load_matrices(void **operands, bool transposed, fiber *lane0)
{
    const int n = ((matrix_operands *)operands[0])->n_matrices;

    for (int lane = 0; lane < 8 * n; lane++) {
        const matrix_operands *p = (matrix_operands *)operands[lane];

        if (m.checked)
            check_access(lane0 + lane, (uintptr_t)p->row, 16, READ, p->pc);
        else if ((uintptr_t)p->row & 15)
            report(EMU_MISALIGNED, p->pc, "ldmatrix row at %s at %s",
                   memory_at((uintptr_t)p->row).c_str(), source_of(p->pc).c_str());
    }
    for (int i = 0; i < n; i++)
        for (int lane = 0; lane < LANES; lane++) {
            uint16_t pair[2];

            for (int e = 0; e < 2; e++) {
                const int far = (lane & 3) * 2 + e, near = lane >> 2;
                const int row = transposed ? far : near, col = transposed ? near : far;

                memcpy(&pair[e], ((matrix_operands *)operands[i * 8 + row])->row + col * 2, 2);
            }
            memcpy(&((matrix_operands *)operands[lane])->r[i], pair, 4);
        }
}

static unsigned shuffled(const gathering *g, int lane)
{
    const shuffle_operands *p = (shuffle_operands *)g->operands[lane];
    const int w = p->width, base = lane & ~(w - 1);
    int source;

    switch (g->kind) {
    case SHUFFLE_INDEX:
        source = base + (p->source & (w - 1));
        break;
    case SHUFFLE_XOR:
        source = lane ^ p->source;
        break;
    case SHUFFLE_UP:
        source = lane - p->source;
        break;
    default:
        source = lane + p->source;
        break;
    }
    /* out of the segment: its own value; xor may reach an earlier segment */
    if (source >= base + w || source < 0 || (g->kind == SHUFFLE_UP && source < base)) source = lane;
    if (!(g->mask >> source & 1)) {
        report(EMU_SHUFFLE, (uint64_t)g->at.line,
               "lane %d reads lane %d, which is outside mask %08x, at %s:%d", lane, source, g->mask,
               g->at.file, g->at.line);
        return 0xFFFFFFFFu;
    }
    return ((shuffle_operands *)g->operands[source])->value;
}

static void shuffle_all(gathering *g)
{
    unsigned out[LANES];

    for (int i = 0; i < LANES; i++)
        if (g->mask >> i & 1) out[i] = shuffled(g, i);
    for (int i = 0; i < LANES; i++)
        if (g->mask >> i & 1) ((shuffle_operands *)g->operands[i])->value = out[i];
}

static void ballot_all(gathering *g)
{
    unsigned votes = 0;

    for (int i = 0; i < LANES; i++)
        if (g->mask >> i & 1 && ((shuffle_operands *)g->operands[i])->value) votes |= 1u << i;
    for (int i = 0; i < LANES; i++)
        if (g->mask >> i & 1) ((shuffle_operands *)g->operands[i])->value = votes;
}

static void work(gathering *g, unsigned warp)
{
    switch (g->kind) {
    case MULTIPLY:
        multiply(g->operands);
        break;
    case LOAD_MATRIX:
    case LOAD_MATRIX_TRANSPOSED:
        load_matrices(g->operands, g->kind == LOAD_MATRIX_TRANSPOSED, &m.fibers[warp * LANES]);
        break;
    case SYNC_WARP: /* a partial one orders nothing: lanes outside it have no clock of their own */
        if (g->mask == m.warps[warp].alive) m.clocks[warp][warp]++;
        break;
    case BALLOT:
        ballot_all(g);
        break;
    default:
        shuffle_all(g);
    }
}

/* Whose mask this is, opened when nobody has it open. */
static gathering *join(warp_state *w, collective kind, unsigned mask, place at)
{
    gathering *mine = nullptr, *unused = nullptr;

    for (gathering &g : w->open) {
        if (!g.arrived) {
            if (!unused) unused = &g;
        } else if (g.mask == mask) {
            mine = &g;
        } else if (g.mask & mask) {
            report(EMU_WARP_DIVERGENCE, (uint64_t)at.line | 2ull << 32,
                   "mask %08x at %s:%d overlaps mask %08x, whose lanes wait at %s:%d", mask,
                   at.file, at.line, g.mask, g.at.file, g.at.line);
            give_up_block();
        }
    }
    if (mine) {
        if (mine->kind != kind || mine->at.line != at.line) {
            report(EMU_WARP_DIVERGENCE, (uint64_t)at.line << 20 | (unsigned)mine->at.line,
                   "lane %u at collective %s:%d, other lanes at %s:%d", m.running->lane, at.file,
                   at.line, mine->at.file, mine->at.line);
            give_up_block();
        }
        return mine;
    }
    if (!unused) {
        report(EMU_WARP_DIVERGENCE, (uint64_t)at.line | 3ull << 32,
               "a fifth open mask %08x of one warp at %s:%d", mask, at.file, at.line);
        give_up_block();
    }
    *unused = { mask, 0, kind, at, {} };
    return unused;
}

static void gather(collective kind, unsigned mask, void *operands, place at)
{
    fiber *self = m.running;
    warp_state *w = &m.warps[self->warp];
    const unsigned bit = 1u << self->lane;

    if (!(mask & bit) || (mask & ~w->alive)) {
        report(EMU_WARP_MASK, (uint64_t)at.line,
               "lane %u calls with mask %08x at %s:%d; the warp's lanes are %08x", self->lane, mask,
               at.file, at.line, w->alive);
        give_up_block();
    }
    gathering *g = join(w, kind, mask, at);
    g->operands[self->lane] = operands;
    g->arrived |= bit;
    if (g->arrived != g->mask) {
        self->waits_for = "warp collective";
        self->waits_at = at;
        give_way();
        return;
    }
    work(g, self->warp);
    g->arrived = 0;
    for (unsigned i = 0; i < LANES; i++)
        if (mask >> i & 1 && i != self->lane) make_ready(&m.fibers[self->warp * LANES + i]);
    if (m.seed < 2) return;
    make_ready(self);
    give_way();
}

void warp_barrier(unsigned mask, place at)
{
    gather(SYNC_WARP, mask, nullptr, at);
}

unsigned shuffle(collective kind, unsigned mask, unsigned value, int source, int width, place at)
{
    shuffle_operands p = { value, source, width };

    gather(kind, mask, &p, at);
    return p.value;
}

unsigned ballot(unsigned mask, int predicate, place at)
{
    shuffle_operands p = { predicate != 0, 0, LANES };

    gather(BALLOT, mask, &p, at);
    return p.value;
}

void load_matrix(collective kind, uint32_t *r, int n_matrices, const void *row, place at)
{
    matrix_operands p = { r, (const char *)row, n_matrices,
                          caller_pc(__builtin_return_address(0)) };

    gather(kind, 0xFFFFFFFFu, &p, at);
}

void multiply_bf16_16816(float *d, const uint32_t *a, const uint32_t *b, place at)
{
    multiply_operands p = { d, a, b };

    gather(MULTIPLY, 0xFFFFFFFFu, &p, at);
}

} // namespace emu
