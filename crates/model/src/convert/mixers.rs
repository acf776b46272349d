//! The tensors of recurrent layers, MLPs and experts, which layouts lay down in different ways.

use super::plan::{LayerPlan, Plan};
use super::planned::{Change, Origin, Planned, Rows, Storage};
use crate::Result;
use crate::config::{DeltaConfig, DenseBeside, ExpertNames, ExpertsConfig, Presence};
use crate::weights::{ByHead, MatrixShape, fitting};
use leveret_kernels::ElementType;

impl Plan<'_> {
    /// A recurrent layer of a Hugging Face folder.
    pub(super) fn delta(&mut self, plan: &LayerPlan<'_>, config: &DeltaConfig) -> Result<()> {
        let (tiled, shape) = (self.layout.tiled, &config.shape);
        let by_head = self.has_matrix(&plan.at(|n| n.delta.qkvz).0).then(|| ByHead::new(shape));
        // The value head of the original that becomes each one of the new file.
        let wanted = DeltaConfig { tiled, ..*config };
        let mut heads = vec![0; shape.v_heads];
        (0..shape.v_heads).for_each(|head| heads[wanted.stored_head(head)] = config.stored_head(head));
        let heads = &heads;
        // The original's row, where a head has `width` rows.
        let values = |width: usize| heads.iter().flat_map(move |&head| head * width..(head + 1) * width);
        let keys = 2 * shape.k_width();
        let channels: Vec<usize> = (0..keys).chain(values(shape.v_dim).map(|row| keys + row)).collect();
        let order = |order: Vec<usize>| tiled.then_some(order);

        let (from, to) = plan.at(|n| n.delta.qkv);
        let (z_from, z_to) = plan.at(|n| n.delta.z);
        let (qkv, z) = match &by_head {
            Some(by) => {
                let (from, _) = plan.at(|n| n.delta.qkvz);
                let from = format!("{from}.weight");
                let qkv = channels.iter().map(|&row| by.qkv(row)).collect();
                let z = values(shape.v_dim).map(|row| by.z(row)).collect();
                (
                    Rows { order: Some(qkv), ..Rows::of(from.clone()) },
                    Rows { order: Some(z), ..Rows::of(from) },
                )
            }
            None => {
                let z = order(values(shape.v_dim).collect());
                (
                    Rows { order: order(channels.clone()), ..Rows::of(format!("{from}.weight")) },
                    Rows { order: z, ..Rows::of(format!("{z_from}.weight")) },
                )
            }
        };
        self.floats(format!("{to}.weight"), qkv, None, None)?;
        self.floats(format!("{z_to}.weight"), z, None, None)?;

        let ba = plan.at(|n| n.delta.ba);
        if self.has_matrix(&ba.0) && !tiled {
            self.exact(ba)?;
        } else {
            let scalars = |part: fn(&ByHead, usize) -> usize| -> Option<Vec<usize>> {
                match &by_head {
                    Some(by) => Some(values(1).map(|row| part(by, row)).collect()),
                    None => order(values(1).collect()),
                }
            };
            let separate =
                [(plan.at(|n| n.delta.b), scalars(ByHead::b)), (plan.at(|n| n.delta.a), scalars(ByHead::a))];
            for ((from, to), order) in separate {
                let from = if by_head.is_some() { &ba.0 } else { &from };
                let rows = Rows { order, ..Rows::of(format!("{from}.weight")) };
                self.exact_rows(format!("{to}.weight"), rows)?;
            }
        }

        let (from, to) = plan.at(|n| n.delta.out);
        let rows =
            Rows { columns: order(values(shape.v_dim).collect()), ..Rows::of(format!("{from}.weight")) };
        self.floats(format!("{to}.weight"), rows, None, None)?;
        let f32 = Some(ElementType::F32);
        let (from, to) = plan.at(|n| n.delta.conv);
        let flat = vec![shape.channels(), shape.taps];
        self.floats(to, Rows { order: order(channels.clone()), ..Rows::of(from) }, f32, Some(flat))?;
        for ((from, to), change) in
            [(plan.at(|n| n.delta.rates), Change::Rate), (plan.at(|n| n.delta.dt_bias), Change::None)]
        {
            let rows = Rows { order: order(values(1).collect()), change, ..Rows::of(from) };
            self.floats(to, rows, f32, None)?;
        }
        self.vector(plan.at(|n| n.delta.norm))
    }

    pub(super) fn mlp(&mut self, plan: &LayerPlan<'_>) -> Result<()> {
        let mlp = &plan.layer.mlp;
        let Some(experts) = mlp.experts else { return self.dense(plan) };
        let router = plan.at(|n| n.router);
        if experts.router_bias {
            let bias = |name: &str| format!("{name}.bias");
            self.vector((bias(&router.0), bias(&router.1)))?;
        }
        self.exact(router)?;
        if experts.scaled {
            self.vector(plan.at(|n| n.router_scale))?;
            self.vector(plan.at(|n| n.expert_scales))?;
        }
        match experts.dense {
            None => {}
            Some(DenseBeside::Normed { .. }) => {
                self.dense(plan)?;
                self.norm(plan.at(|n| n.dense_post_norm), plan.config)?;
                self.norm(plan.at(|n| n.experts_norm), plan.config)?;
                self.norm(plan.at(|n| n.experts_post_norm), plan.config)?;
            }
            Some(DenseBeside::Gated { .. }) => {
                self.matrix(plan.at(|n| n.shared.gate), Presence::No)?;
                self.matrix(plan.at(|n| n.shared.up), Presence::No)?;
                self.matrix(plan.at(|n| n.shared.down), Presence::No)?;
                self.exact(plan.at(|n| n.shared.scale))?;
            }
        }
        self.experts(plan, &experts)
    }

    fn dense(&mut self, plan: &LayerPlan<'_>) -> Result<()> {
        let bias = plan.layer.mlp.bias;
        self.matrix(plan.at(|n| n.gate), bias)?;
        self.matrix(plan.at(|n| n.up), bias)?;
        self.matrix(plan.at(|n| n.down), bias)
    }

    fn experts(&mut self, plan: &LayerPlan<'_>, experts: &ExpertsConfig) -> Result<()> {
        let (count, width, hidden) = (experts.count, plan.layer.mlp.width, plan.config.hidden);
        let source = self.source;
        let stored = ExpertNames::found(plan.config.names.experts, |name| source.has(&plan.from(name)));
        let to = |fused: bool| {
            self.layout.names.experts.iter().find(|to| matches!(to, ExpertNames::Fused { .. }) == fused)
        };
        let (inner, outer) = (vec![count, width, hidden], vec![count, hidden, width]);
        if let ExpertNames::Fused { gate_up, down } = stored
            && self.layout.fused_experts
            && let Some(ExpertNames::Fused { gate_up: gate_up_to, down: down_to }) = to(true)
        {
            let (both, last) = (Rows::of(plan.from(gate_up)), Rows::of(plan.from(down)));
            self.floats(plan.to(gate_up_to), both, None, None)?;
            return self.floats(plan.to(down_to), last, None, None);
        }
        let Some(ExpertNames::Stacked { gate: gate_to, up: up_to, down: down_to }) = to(false).copied()
        else {
            return Err(self.unsupported("experts for which the new layout has no names"));
        };
        let weight = |name: &str| plan.to(&format!("{name}.weight"));
        let (gate_to, up_to, down_to) = (weight(gate_to), weight(up_to), weight(down_to));
        match stored {
            ExpertNames::Each { experts, gate, up, down } => {
                for (name, to, shape) in
                    [(gate, gate_to, &inner), (up, up_to, &inner), (down, down_to, &outer)]
                {
                    let each = |e: usize| plan.from(&format!("{experts}{e}.{name}.weight"));
                    let rows = Rows { tensors: (0..count).map(each).collect(), ..Rows::default() };
                    self.floats(to, rows, None, Some(shape.clone()))?;
                }
                Ok(())
            }
            ExpertNames::Stacked { gate, up, down } => {
                for (name, to) in [(gate, gate_to), (up, up_to), (down, down_to)] {
                    self.floats(to, Rows::of(plan.from(&format!("{name}.weight"))), None, None)?;
                }
                Ok(())
            }
            ExpertNames::Fused { gate_up, down } => {
                for (half, to) in [(0, gate_to), (1, up_to)] {
                    let of_expert = |e: usize| (2 * e + half) * width..(2 * e + half + 1) * width;
                    let order = Some((0..count).flat_map(of_expert).collect());
                    let rows = Rows { order, ..Rows::of(plan.from(gate_up)) };
                    self.floats(to, rows, None, Some(inner.clone()))?;
                }
                self.floats(down_to, Rows::of(plan.from(down)), None, None)
            }
            ExpertNames::Alternating { gate_up, down } => {
                let parts = [(gate_up, 0, 2, gate_to), (gate_up, 1, 2, up_to), (down, 0, 1, down_to)];
                for (name, first, step, to) in parts {
                    let shape = if step == 2 { inner.clone() } else { outer.clone() };
                    self.alternating(plan.from(name), to, shape, first, step)?;
                }
                Ok(())
            }
        }
    }

    /// A matrix of every expert of gpt-oss, and its bias. MXFP4 stays what it is.
    fn alternating(
        &mut self,
        from: String,
        to: String,
        shape: Vec<usize>,
        first: usize,
        step: usize,
    ) -> Result<()> {
        let (experts, rows, cols) = (shape[0], shape[1] * step, shape[2]);
        let bias = format!("{from}_bias");
        let columns = (step > 1).then(|| (first..rows).step_by(step).collect());
        let bias_to = format!("{}.bias", to.trim_end_matches(".weight"));
        let bias_shape = Some(shape[..2].to_vec());
        self.floats(bias_to, Rows { columns, ..Rows::of(bias) }, Some(ElementType::F32), bias_shape)?;
        let ty = match self.source.tensor(&from)? {
            Some(tensor) => fitting(self.ty, MatrixShape { ty: tensor.ty, rows: 1, cols }),
            None => ElementType::Mxfp4,
        };
        let origin = Origin::Alternating { name: from, experts, rows, cols, first, step };
        self.planned.push(Planned { name: to, shape, ty: Storage::Floats(ty), origin });
        Ok(())
    }
}
